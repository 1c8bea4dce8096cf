package sshd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// asNobody returns a guest in which the user is not the agent's: nobody, with a home.
func asNobody(t *testing.T) *openSSH {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give rights to others")
	}
	home, err := os.MkdirTemp("/tmp", "banger-sshd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	const nobody = 65534
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	o := newOpenSSH(t)
	passwd := fmt.Sprintf("root:x:0:0::%s:/bin/sh\ntester:x:%d:%d::%s:/bin/sh\n", o.home, nobody, nobody, home)
	if err := os.WriteFile(o.server.etc+"/passwd", []byte(passwd), 0o600); err != nil {
		t.Fatal(err)
	}
	sockets := filepath.Join(home, "sockets") // others may pass through it
	if err := os.Mkdir(sockets, 0o711); err != nil {
		t.Fatal(err)
	}
	o.home, o.server.sockets = home, sockets
	return o
}

// TestStreamsAreTheUsers: a program can open what it reads and writes by name, as
// scripts do with /dev/stdout.
func TestStreamsAreTheUsers(t *testing.T) {
	o := asNobody(t)
	const program = "id -u; cat /dev/stdin >/dev/stdout; echo warned >/dev/stderr; echo more >>/proc/self/fd/1"
	if out, said, status := o.run(t, "input\n", nil, program); out != "65534\ninput\nmore\n" || said != "warned\n" || status != 0 {
		t.Errorf("exit %d, %q: %q", status, out, said)
	}
	const owner = "stat -L -c '%u %a' /dev/stdin; tty >/dev/tty; echo on >/dev/stdout"
	if out, said, status := o.run(t, "", []string{"-tt"}, owner); !strings.HasPrefix(out, "65534 620\r\n/dev/pts/") || !strings.HasSuffix(out, "\r\non\r\n") || status != 0 {
		t.Errorf("exit %d, %q: %q", status, out, said)
	}
}

// TestSocketForwardsOfAUser: they have the user's rights, not the agent's.
func TestSocketForwardsOfAUser(t *testing.T) {
	o := asNobody(t)
	roots := filepath.Join(t.TempDir(), "roots")
	l, err := net.Listen("unix", roots)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	local, theirs := filepath.Join(o.dir, "local"), filepath.Join(o.home, "theirs")
	o.hold(t, []string{"-L", local + ":" + roots, "-R", theirs + ":" + filepath.Join(o.dir, "here")}, untilEOF)
	conn, err := net.Dial("unix", local)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("nobody was connected to root's socket")
	}
	conn.Close()
	info, err := os.Lstat(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 65534 || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v of %d", info.Mode(), owner.Uid)
	}
	for _, refused := range []string{filepath.Join(filepath.Dir(roots), "new"), theirs} {
		if _, _, status := o.run(t, "", []string{"-R", refused + ":/none"}, "true"); status == 0 {
			t.Errorf("%s was made", refused)
		}
	}
	if _, _, status := o.run(t, "", []string{"-R", "127.0.0.1:1023:localhost:1"}, "true"); status == 0 {
		t.Error("nobody took a port of root's")
	}
}

// TestRightsOfAThread: what is done as a user is done with the user's rights, and the
// agent keeps its own.
func TestRightsOfAThread(t *testing.T) {
	asNobody(t)
	user := account{name: "nobody", uid: 65534, gid: 65534, groups: []uint32{65534}}
	for range 50 {
		var groups []int
		var euid, real, saved int
		err := asUser(user, func() (err error) {
			real, euid, saved = unix.Getresuid()
			groups, err = unix.Getgroups()
			return err
		})
		if err != nil || euid != 65534 || real != 0 || saved != 0 || len(groups) != 1 || groups[0] != 65534 {
			t.Fatalf("%v: %d, %d, %d, groups %v", err, real, euid, saved, groups)
		}
		if _, euid, _ := unix.Getresuid(); euid != 0 {
			t.Fatal("another thread lost its rights")
		}
	}
	// Others see the rights of the first thread, which must never change.
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || !strings.Contains(string(status), "\nUid:\t0\t0\t0\t0\n") {
		t.Errorf("the process has other rights: %v", err)
	}
}

// TestNologin: it bars others than root, with its text.
func TestNologin(t *testing.T) {
	o := asNobody(t)
	if err := os.WriteFile(o.server.etc+"/nologin", []byte("back at noon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range [][]string{nil, {"-s"}} {
		if out, said, status := o.run(t, "", options, "sftp"); status != 254 || out != "" || said != "back at noon\r\n" {
			t.Errorf("%q: exit %d, %q: %q", options, status, out, said)
		}
	}
	o.want(t, "in\n", []string{"-l", "root"}, "echo in")
}

// TestHomeThatCannotBeEntered: a user whose home belongs to another can log in, and begins
// in /, as one without a home.
func TestHomeThatCannotBeEntered(t *testing.T) {
	for name, bar := range map[string]func(home string) error{
		"another's": func(home string) error { return errors.Join(os.Chown(home, 0, 0), os.Chmod(home, 0o700)) },
		"absent":    os.RemoveAll,
		"a file":    func(home string) error { return errors.Join(os.RemoveAll(home), os.WriteFile(home, nil, 0o600)) },
	} {
		o := asNobody(t)
		o.server.sockets = t.TempDir()
		if err := bar(o.home); err != nil {
			t.Fatal(err)
		}
		out, said, status := o.run(t, "", nil, "pwd; id -u")
		if out != "/\n65534\n" || status != 0 || !strings.HasPrefix(said, "Could not chdir to home directory "+o.home+": ") {
			t.Errorf("%s: exit %d, %q: %q", name, status, out, said)
		}
	}
}

// TestLoginID: the kernel knows whose login a program is of, as logname(1) asks.
func TestLoginID(t *testing.T) {
	o := asNobody(t)
	settable := make(chan error)
	go onOtherThread(func() { settable <- os.WriteFile(loginID, []byte("0"), 0) })
	if err := <-settable; err != nil {
		t.Skipf("this host's kernel keeps no logins: %v", err)
	}
	before := read(t, "/proc/self/loginuid")
	for _, options := range [][]string{nil, {"-tt"}} {
		if out, said, status := o.run(t, "", options, "cat /proc/self/loginuid"); out != "65534" || status != 0 {
			t.Errorf("ssh %q: exit %d, %q: %s", options, status, out, said)
		}
	}
	if now := read(t, "/proc/self/loginuid"); now != before {
		t.Errorf("the server's own was %s and is %s", before, now)
	}
}
