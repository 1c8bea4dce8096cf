package sshd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// newTestManagers returns managers whose systemctl notes that it was called, waits until
// go can be read if that is a pipe, and makes what a manager makes unless fail is there.
func newTestManagers(t *testing.T, booted bool) (m *managers, dir string) {
	t.Helper()
	dir = t.TempDir()
	m = newManagers((*exec.Cmd).Start, func() bool { return booted })
	m.dir, m.systemctl = dir, filepath.Join(dir, "systemctl")
	script := fmt.Sprintf("#!/bin/sh\ncd %s\necho \"$*\" >>calls\ntest ! -p go || read x <go\ntest ! -e fail || exit 1\nmkdir -p %d/systemd && : >%d/systemd/private\n",
		dir, os.Geteuid(), os.Geteuid())
	if err := os.WriteFile(m.systemctl, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return m, dir
}

func calls(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(dir + "/calls")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	want := fmt.Sprintf("start user@%d.service\n", os.Geteuid())
	if strings.ReplaceAll(string(text), want, "") != "" {
		t.Errorf("systemctl %s", text)
	}
	return strings.Count(string(text), "\n")
}

func TestManagerIsStartedOnceAndAwaited(t *testing.T) {
	user := account{name: "me", uid: uint32(os.Geteuid())}
	m, dir := newTestManagers(t, true)
	if env := m.environment(user); env != nil {
		t.Errorf("without a manager: %v", env)
	}
	m.provide(user, waits)
	own := fmt.Sprintf("%s/%d", dir, user.uid)
	if env := m.environment(user); len(env) != 1 || env["XDG_RUNTIME_DIR"] != own {
		t.Errorf("got %v", env)
	}
	if err := os.WriteFile(own+"/bus", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if env := m.environment(user); env["DBUS_SESSION_BUS_ADDRESS"] != "unix:path="+own+"/bus" {
		t.Errorf("got %v", env)
	}
	if env := m.environment(account{uid: user.uid + 1}); env != nil {
		t.Errorf("another user has %v", env)
	}
	for _, n := range []need{mayUse, waits, asks} {
		m.provide(user, n)
	}
	if n := calls(t, dir); n != 1 {
		t.Errorf("systemctl was called %d times", n)
	}
}

// TestManagerKeepsNobodyWaiting: a guest that boots starts none until it is asked for, and
// one that cannot have any is asked only by programs that need it.
func TestManagerKeepsNobodyWaiting(t *testing.T) {
	user := account{name: "me", uid: uint32(os.Geteuid())}
	m, dir := newTestManagers(t, false)
	m.provide(user, mayUse)
	m.provide(user, waits)
	if n := calls(t, dir); n != 0 {
		t.Errorf("systemctl was called %d times while the guest boots", n)
	}
	m.provide(user, asks)
	if n := calls(t, dir); n != 1 || !m.runs(user) {
		t.Errorf("systemctl was called %d times", n)
	}

	m, dir = newTestManagers(t, true)
	if err := os.WriteFile(dir+"/fail", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		m.provide(user, waits)
	}
	m.provide(user, asks)
	if n := calls(t, dir); n != 2 {
		t.Errorf("systemctl was called %d times", n)
	}
	m.systemctl = "/no/such/systemctl"
	m.provide(user, asks)
	if env := m.environment(user); env != nil {
		t.Errorf("got %v", env)
	}
}

// TestManagerStartsBehindAProgram that does not ask for it.
func TestManagerStartsBehindAProgram(t *testing.T) {
	user := account{name: "me", uid: uint32(os.Geteuid())}
	m, dir := newTestManagers(t, true)
	if out, err := exec.Command("mkfifo", dir+"/go").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.provide(user, mayUse)
	m.provide(user, mayUse)
	if m.runs(user) {
		t.Error("it runs")
	}
	over := m.request(user, mayUse)
	if err := os.WriteFile(dir+"/go", []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	<-over
	if n := calls(t, dir); n != 1 || !m.runs(user) {
		t.Errorf("systemctl was called %d times", n)
	}
}

func TestNeedOf(t *testing.T) {
	for _, c := range []struct {
		least need
		argv  []string
		want  need
	}{
		{mayUse, []string{"true"}, mayUse},
		{waits, nil, waits},
		{mayUse, []string{"systemctl", "--user", "status"}, asks},
		{waits, []string{"cd $XDG_RUNTIME_DIR && ls"}, asks},
		{mayUse, []string{"sh", "-c", "echo $DBUS_SESSION_BUS_ADDRESS"}, asks},
	} {
		if got := needOf(c.least, c.argv...); got != c.want {
			t.Errorf("%q: %v, want %v", c.argv, got, c.want)
		}
	}
}
