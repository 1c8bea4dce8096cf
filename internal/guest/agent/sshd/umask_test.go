package sshd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUmask: a login gets the umask that PAM would give it.
func TestUmask(t *testing.T) {
	before := umask(t)
	for _, c := range []struct{ pam, defs, want string }{
		{"session optional pam_umask.so", "UMASK 077", "0077"},
		{"session optional pam_umask.so umask=027", "UMASK 077", "0027"},
		{"-session [default=1] pam_umask.so silent usergroups umask=0002", "", "0002"},
		{"session optional pam_umask.so", "", before},
		{"session optional pam_umask.so", "UMASK 9", before},
		{"account optional pam_umask.so", "UMASK 077", before},
		{"session required pam_unix.so", "UMASK 077", before},
	} {
		o := newOpenSSH(t)
		dir := filepath.Join(o.server.etc, "pam.d")
		err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "common-session"), []byte(c.pam+"\n"), 0o600),
			os.WriteFile(o.server.etc+"/login.defs", []byte(c.defs+"\n"), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if out, said, _ := o.run(t, "", nil, "umask"); strings.TrimSpace(out) != c.want {
			t.Errorf("%q, %q: the umask is %s, want %s: %s", c.pam, c.defs, out, c.want, said)
		}
	}
	if now := umask(t); now != before {
		t.Errorf("the server's own was %s and is %s", before, now)
	}
}

// umask returns this process's umask as a shell prints it.
func umask(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(read(t, "/proc/self/status")) {
		if value, ok := strings.CutPrefix(line, "Umask:"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Skip("this kernel does not tell a process's umask")
	return ""
}
