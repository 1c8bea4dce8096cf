package sshd

import (
	"bytes"
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// TestProgramsThatCannotStart say what they lack.
func TestProgramsThatCannotStart(t *testing.T) {
	g := newSSHGuest(t)
	put := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(g.home, name), content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put("script", []byte("#! /no/such/interpreter -x\n"))
	put("text", []byte("just text\n"))
	program, loaded := dynamic(t)
	broken := bytes.Replace(program, []byte(loaded), []byte("/no"+loaded[3:]), 1)
	put("elf", broken)
	program[18] = byte(elf.EM_AARCH64)
	put("arm", program)
	for _, c := range []struct {
		name, says string
		status     int
	}{
		{"./script", "script needs /no/such/interpreter to start, which the VM does not have", wire.ExitNotFound},
		{"./elf", "elf needs /no" + loaded[3:] + " to start, which the VM does not have", wire.ExitNotFound},
		{"./text", "text: not a program for this machine, or a script without #!", wire.ExitCannotRun},
		{"./arm", "arm: not a program for this machine", wire.ExitCannotRun},
		{"/no/such/dir/bash", "the VM's image has no shell at /no/such/dir/bash", wire.ExitNotFound},
	} {
		if r := g.execDirect(t, wire.Exec{Argv: bytesOf(c.name)}); r.status != c.status || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s: got %+v", c.name, r)
		}
	}
}

// TestSSHWithoutAShell names what the image lacks.
func TestSSHWithoutAShell(t *testing.T) {
	g := newSSHGuest(t)
	passwd := filepath.Join(g.server.etc, "passwd")
	text, err := os.ReadFile(passwd)
	if err == nil {
		err = os.WriteFile(passwd, bytes.Replace(text, []byte("/bin/sh"), []byte("/no/bin/sh"), 1), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := g.session(t)
	var said bytes.Buffer
	s.Stderr = &said
	if got := statusOf(s.Run("true")); got != wire.ExitNotFound || !strings.Contains(said.String(), "has no shell at /no/bin/sh; `banger vm exec` runs programs without a shell") {
		t.Errorf("status %d, %q", got, said.String())
	}
}

// dynamic returns a dynamic program of this host, and its loader.
func dynamic(t *testing.T) (program []byte, loader string) {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			text := make([]byte, p.Filesz)
			if _, err := p.ReadAt(text, 0); err != nil {
				t.Fatal(err)
			}
			return program, string(bytes.TrimRight(text, "\x00"))
		}
	}
	t.Skip("this host's shell is not dynamic")
	return nil, ""
}

// TestErrorsThatExplainThemselvesStay as they are.
func TestErrorsThatExplainThemselvesStay(t *testing.T) {
	missing := &fs.PathError{Op: "exec", Path: "/no/such", Err: unix.ENOENT}
	for _, err := range []error{missing, unix.EACCES, errors.New("other")} {
		if got := explain(err, &exec.Cmd{Path: "/no/such"}); got != err {
			t.Errorf("got %v, want %v", got, err)
		}
	}
}
