package resolved

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/godbus/dbus/v5"
)

// bus starts a D-Bus of the test's own, and returns its address.
func bus(t *testing.T) string {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is missing: apt-get install dbus")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	address := "unix:path=" + filepath.Join(dir, "bus")
	text := `<busconfig><type>custom</type><listen>` + address + `</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--print-address=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil { // it serves now
		t.Fatal(err)
	}
	return address
}

// fake is a systemd-resolved that notes what it is told.
type fake struct {
	refuse string // the method that fails

	mu   sync.Mutex
	told []string
}

// heard returns what it was told.
func (f *fake) heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.told)
}

func (f *fake) note(method string, args ...any) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, strings.TrimSpace(method+" "+fmt.Sprintln(args...)))
	if f.refuse == method {
		return dbus.MakeFailedError(fmt.Errorf("link is loopback device"))
	}
	return nil
}

func (f *fake) SetLinkDefaultRoute(link int32, on bool) *dbus.Error {
	return f.note("SetLinkDefaultRoute", link, on)
}

func (f *fake) SetLinkDomains(link int32, domains []struct {
	Domain string
	Only   bool
}) *dbus.Error {
	return f.note("SetLinkDomains", link, domains)
}

func (f *fake) SetLinkDNS(link int32, servers []struct {
	Family int32
	Bytes  []byte
}) *dbus.Error {
	return f.note("SetLinkDNS", link, servers)
}

func (f *fake) RevertLink(link int32) *dbus.Error { return f.note("RevertLink", link) }

// serve makes f the systemd-resolved of a bus.
func (f *fake) serve(t *testing.T, address string) {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.Export(f, object, strings.TrimSuffix(manager, ".")); err != nil {
		t.Fatal(err)
	}
	if got, err := conn.RequestName(service, dbus.NameFlagDoNotQueue); err != nil || got != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(got, err)
	}
}

var server = netip.MustParseAddr("10.192.0.1")

// The host asks for names of VMs where they are known, until that is undone.
func TestAskAndForget(t *testing.T) {
	f, r := &fake{}, Resolved{Bus: bus(t)}
	f.serve(t, r.Bus)
	if err := r.Ask(t.Context(), 7, server, "vm"); err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	want := []string{"SetLinkDefaultRoute 7 false", "SetLinkDomains 7 [{vm true}]", "SetLinkDNS 7 [{2 [10 192 0 1]}]", "RevertLink 7"}
	if told := f.heard(); !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// A refusal is passed on, and nothing is said after it.
func TestRefusal(t *testing.T) {
	f, r := &fake{refuse: "SetLinkDomains"}, Resolved{Bus: bus(t)}
	f.serve(t, r.Bus)
	if err := r.Ask(t.Context(), 1, server, "vm"); err == nil || !strings.Contains(err.Error(), "loopback device") || len(f.heard()) != 2 {
		t.Errorf("%v, told %q", err, f.heard())
	}
}

// Without systemd-resolved there is nothing to do.
func TestAbsent(t *testing.T) {
	for name, address := range map[string]string{"no bus": "unix:path=" + filepath.Join(t.TempDir(), "none"), "no service": ""} {
		if address == "" {
			address = bus(t)
		}
		if err := (Resolved{Bus: address}).Ask(t.Context(), 7, server, "vm"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A bus that does not answer holds nobody up.
func TestSilent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			cancel()
			defer conn.Close()
		}
		<-t.Context().Done()
	}()
	if err := (Resolved{Bus: "unix:path=" + path}).Ask(ctx, 7, server, "vm"); err == nil {
		t.Error("no error")
	}
}

// In another network namespace the same number is another link.
func TestOtherNamespace(t *testing.T) {
	const env = "BANGER_TEST_BUS"
	if address := os.Getenv(env); address != "" {
		if err := (Resolved{Bus: address}).Ask(t.Context(), 7, server, "vm"); err != nil {
			t.Error(err)
		}
		return
	}
	f, address := &fake{}, bus(t)
	f.serve(t, address)
	cmd := exec.Command(os.Args[0], "-test.run=^TestOtherNamespace$")
	cmd.Env = append(os.Environ(), env+"="+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Skipf("user namespaces are forbidden here: %v", err)
	}
	if err != nil || len(f.told) > 0 {
		t.Errorf("%v, told %q\n%s", err, f.told, out)
	}
}
