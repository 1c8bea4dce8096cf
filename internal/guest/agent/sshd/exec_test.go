package sshd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/guest/wire"
)

func TestExecDirectKeepsBytes(t *testing.T) {
	g := newSSHGuest(t)
	odd := "a b\t'\"$HOME\\\n\xff\xfe*"
	r := g.execDirect(t, wire.Exec{Argv: bytesOf("printf", "%s|", odd, "", "-n"), Env: bytesOf("X=1")})
	if want := odd + "||-n|"; r.status != 0 || r.stdout != want {
		t.Errorf("got %+v, want %q", r, want)
	}
}

func TestExecDirectStatuses(t *testing.T) {
	g := newSSHGuest(t)
	if err := os.WriteFile(filepath.Join(g.home, "plain"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		exec   wire.Exec
		status int
	}{
		{"own status", wire.Exec{Argv: bytesOf("sh", "-c", "exit 42")}, 42},
		{"not found", wire.Exec{Argv: bytesOf("no-such-program-anywhere")}, wire.ExitNotFound},
		{"path not found", wire.Exec{Argv: bytesOf("./missing")}, wire.ExitNotFound},
		{"not executable", wire.Exec{Argv: bytesOf("./plain")}, wire.ExitCannotRun},
		{"a directory", wire.Exec{Argv: bytesOf("/")}, wire.ExitCannotRun},
		{"no such directory", wire.Exec{Argv: bytesOf("true"), Workdir: []byte("/no/such")}, wire.ExitCannotRun},
		{"no such user", wire.Exec{Argv: bytesOf("true"), User: "ghost"}, wire.ExitCannotRun},
		{"nul", wire.Exec{Argv: bytesOf("true", "a\x00b")}, wire.ExitCannotRun},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := g.execDirect(t, c.exec)
			if r.status != c.status {
				t.Errorf("got %+v, want status %d", r, c.status)
			}
			if c.status != 42 && !strings.HasPrefix(r.stderr, "banger: ") {
				t.Errorf("stderr %q does not say why", r.stderr)
			}
		})
	}
}

// TestExecNamesTheMissingProgram, and does not speak of a file.
func TestExecNamesTheMissingProgram(t *testing.T) {
	r := newSSHGuest(t).execDirect(t, wire.Exec{Argv: bytesOf("no-such-program-anywhere")})
	if want := "banger: the VM has no program no-such-program-anywhere in its PATH\r\n"; r.stderr != want {
		t.Errorf("got %q, want %q", r.stderr, want)
	}
}

func TestExecDirectWorkdirAndEnv(t *testing.T) {
	g := newSSHGuest(t)
	if err := os.Mkdir(filepath.Join(g.home, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := g.execDirect(t, wire.Exec{Argv: bytesOf("sh", "-c", `pwd; echo "$A"`), Workdir: []byte("sub"), Env: bytesOf("A=1", "A=2")})
	if want := g.home + "/sub\n2\n"; r.stdout != want || r.status != 0 {
		t.Errorf("got %+v, want %q", r, want)
	}
}
