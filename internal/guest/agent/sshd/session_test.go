package sshd

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// TestSocketForwards: sockets are forwarded both ways, and leave nothing.
func TestSocketForwards(t *testing.T) {
	o := newOpenSSH(t)
	inGuest, here := filepath.Join(o.home, "in-guest"), filepath.Join(o.dir, "here")
	for _, path := range []string{inGuest, here} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go echo(l)
	}
	local, remote := filepath.Join(o.dir, "local"), filepath.Join(o.home, "remote")
	control := []string{"-o", "ControlPath=control"}
	o.hold(t, append(control, "-M", "-L", local+":"+inGuest, "-R", remote+":"+here), untilEOF)
	if info, err := os.Lstat(remote); err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, path := range []string{local, remote} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, conn)
	}
	o.want(t, "", append(control, "-O", "cancel", "-R", remote+":"+here))
	until(t, "the removal of the socket, for which ssh does not wait", func() bool {
		_, err := os.Lstat(remote)
		return errors.Is(err, os.ErrNotExist)
	})
	o.want(t, "", append(control, "-O", "forward", "-R", remote+":"+here))
	if err := os.Rename(remote, remote+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(remote, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o.want(t, "", append(control, "-O", "cancel", "-R", remote+":"+here))
	if _, err := os.Lstat(remote); err != nil {
		t.Errorf("another's file was removed: %v", err)
	}
}

// TestAgentOfTwoSessions: both sessions of one connection reach the client's agent, and
// so does what the first one leaves behind.
func TestAgentOfTwoSessions(t *testing.T) {
	if _, err := exec.LookPath("ssh-agent"); err != nil {
		t.Skip("ssh-agent is missing: apt-get install openssh-client")
	}
	o := newOpenSSH(t)
	socket := filepath.Join(o.dir, "agent")
	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer agent.Wait()
	defer agent.Process.Kill()
	if _, err := out.Read(make([]byte, 1)); err != nil { // it prints once it listens
		t.Fatal(err)
	}
	o.env = append(o.env, "SSH_AUTH_SOCK="+socket)
	control := []string{"-A", "-o", "ControlPath=control"}
	o.hold(t, append(control, "-M"), untilEOF)
	const ask = `ssh-add -l; echo "$SSH_AUTH_SOCK"`
	var first string
	for i := range 2 {
		out, said, status := o.run(t, "", control, ask)
		answer, path, _ := strings.Cut(out, "\n")
		if answer != "The agent has no identities." || status != 0 || i > 0 && path != first {
			t.Errorf("exit %d, %q: %s", status, out, said)
		}
		first = path
	}
}

// TestLoginFiles: a login prints the message of the day, and runs ~/.ssh/rc before the
// shell, which is a login shell.
func TestLoginFiles(t *testing.T) {
	o := newOpenSSH(t)
	o.server.motd = []string{filepath.Join(o.home, "dynamic"), filepath.Join(o.home, "first"), filepath.Join(o.home, "second")}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(o.home, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("first", "welcome\n")
	write("second", "not read\n")
	write("motd.d/one", "news\n")
	write(".profile", "PS1=; echo profile of $0; exit\n")
	quiet := func(m *unix.Termios) { m.Lflag &^= unix.ECHO }
	if got := o.onTerminal(t, quiet, pty.Winsize{}, nil); got != "welcome\nnews\nprofile of -sh\n" {
		t.Errorf("got %q", got)
	}
	o.want(t, "a command\n", nil, "echo a command")
	write(".hushlogin", "")
	if got := o.onTerminal(t, quiet, pty.Winsize{}, nil); got != "profile of -sh\n" {
		t.Errorf("got %q", got)
	}
	write(".ssh/rc", "echo rc in $PWD\n")
	if got := o.onTerminal(t, quiet, pty.Winsize{}, nil); got != "rc in "+o.home+"\nprofile of /bin/sh\n" {
		t.Errorf("got %q", got)
	}
	if out, said, status := o.run(t, "input", nil, "cat; exit 3"); out != "rc in "+o.home+"\ninput" || status != 3 {
		t.Errorf("exit %d, %q: %s", status, out, said)
	}
}

// TestLoopbackIsBoth: a port that a client forwards to the guest's localhost is reached by
// either of its addresses.
func TestLoopbackIsBoth(t *testing.T) {
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skipf("needs ::1: %v", err)
	} else {
		l.Close()
	}
	o := newOpenSSH(t)
	here := filepath.Join(o.dir, "here")
	l, err := net.Listen("unix", here)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := o.command(t, []string{"-v", "-N", "-R", "0:" + here})
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	port := after(t, said, "llocated port ")
	for _, host := range []string{"127.0.0.1", "::1"} {
		go echo(l)
		conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, conn)
	}
}
