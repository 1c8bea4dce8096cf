package apply

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/godbus/dbus/v5"

	"banger/internal/network"
	"banger/internal/network/networktest"
)

// installed skips a test without a program, which must come before inside.
func installed(t *testing.T, packages string, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v; fix: sudo apt-get install %s", err, packages)
		}
	}
}

// beside runs guests with and without egress. advise follows the notes of the first apply.
func beside(t *testing.T, advise func(notes []Note)) {
	t.Helper()
	w := plan(network.Bridge, 2)
	w.Guests[1].Egress = false
	advise(mustApply(t, w).Notes)
	if notes := mustApply(t, w).Notes; len(notes) != 0 {
		t.Errorf("the advice was followed, and there are the notes %v", notes)
	}
	one, two := boot(t, w, w.Guests[0]), boot(t, w, w.Guests[1])
	two.serve(t, ":7")
	gateway := network.Gateway(w.Subnet)
	(&space{&networktest.Namespace{}}).answer(t, fmt.Sprintf("%v:53", gateway))
	expect(t, "with egress", one.reach(outsideAddr, 7), "")
	expect(t, "without egress", two.reach(outsideAddr, 7), refused)
	expect(t, "guest to guest", one.reach(two.Addr, 7), "")
	expect(t, "a question for names", one.ask(gateway, 53), "")
	for _, g := range []*guest{one, two} {
		g.tap.Close()
	}
	mustApply(t, none(w))
}

// follow does what a note says a person should.
func follow(t *testing.T, notes []Note, fix string) {
	t.Helper()
	if len(notes) != 1 || notes[0].Fix != fix {
		t.Fatalf("notes %q, want the fix %q", notes, fix)
	}
	output(t, "sh", "-euc", strings.ReplaceAll(fix, "sudo ", ""))
}

// TestFirewalld has the real one, with settings of its own.
func TestFirewalld(t *testing.T) {
	installed(t, "firewalld", "firewalld", "firewall-cmd", "dbus-daemon")
	if !inside(t) {
		return
	}
	outside(t)
	startFirewalld(t)
	beside(t, func(notes []Note) {
		bridge := testInstance.Bridge()
		follow(t, notes, fmt.Sprintf("sudo firewall-cmd --permanent --zone=trusted --add-interface=%s && sudo firewall-cmd --reload", bridge))
	})
}

// startFirewalld returns once firewalld answers.
func startFirewalld(t *testing.T) {
	t.Helper()
	cover(t, "/etc/firewalld", "/run", "/var/log")
	dir := t.TempDir()
	bus := "unix:path=" + filepath.Join(dir, "bus")
	config := filepath.Join(dir, "bus.conf")
	err := os.WriteFile(config, []byte(`<busconfig><type>system</type><listen>`+bus+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", bus)
	daemon := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile", "--print-address=1")
	said, err := daemon.StdoutPipe()
	if err == nil {
		err = start(t, daemon)
	}
	if err == nil {
		_, err = said.Read(make([]byte, 100)) // its address, once it listens
	}
	if err != nil {
		t.Fatalf("start a bus: %v", err)
	}
	conn, err := dbus.Connect(bus)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	const name = "org.fedoraproject.FirewallD1"
	signals := make(chan *dbus.Signal, 100)
	conn.Signal(signals)
	if err := conn.AddMatchSignal(dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)); err != nil {
		t.Fatal(err)
	}
	firewalld := exec.Command("firewalld", "--nofork", "--nopid")
	if err := start(t, firewalld); err != nil {
		t.Fatal(err)
	}
	for s := range signals {
		if s.Name == "org.freedesktop.DBus.NameOwnerChanged" {
			break
		}
	}
	output(t, "firewall-cmd", "--state")
}

// start starts a program that ends with the test.
func start(t *testing.T, cmd *exec.Cmd) error {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	if err == nil {
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	return err
}

// cover gives this process and its children directories of their own, with what was there.
func cover(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		kept := t.TempDir()
		if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
			kept = t.TempDir() // it has what a test does not need, and must not see
		}
		if err := syscall.Mount(kept, dir, "", syscall.MS_BIND, ""); err != nil {
			t.Skipf("cover %s: %v", dir, err)
		}
	}
}

// TestUFW has the real one, with settings of its own.
func TestUFW(t *testing.T) {
	installed(t, "ufw", "ufw")
	if !inside(t) {
		return
	}
	outside(t)
	cover(t, "/etc/ufw", "/etc/default", "/run")
	output(t, "ufw", "--force", "enable")
	beside(t, func(notes []Note) {
		follow(t, notes, fmt.Sprintf("sudo ufw allow in on %s to any port 53", testInstance.Bridge()))
	})
}
