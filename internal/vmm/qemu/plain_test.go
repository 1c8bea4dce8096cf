//go:build vm

package qemu

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/network"
	"banger/internal/network/namespace"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
	"banger/internal/vmm/vmmtest/realguest"
)

// plainUser is a user that no other program of the host has.
const plainUser = 0x6fff_fff1

// asPlainUsers are the tests that need a plain user's namespace.
const asPlainUsers = "^TestContract$/^Network$/^inside$|^TestKilledInside$"

// Root runs the tests of namespaces as a plain user, who may open /dev/net/tun, and no
// other device or group of root's.
func TestAsPlainUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this user is plain: the tests run by themselves")
	}
	dir, err := os.MkdirTemp("", "plain") // not t.TempDir, which only root may enter
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, guest := filepath.Join(dir, "test"), filepath.Join(dir, "init")
	for to, from := range map[string]string{program: "/proc/self/exe", guest: realguest.Program(t)} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, plainUser, plainUser); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // and never unlocked: OpenTunToAll
	vmmtest.OpenTunToAll(t)
	cmd := exec.CommandContext(t.Context(), program, "-test.v", "-test.count=1", "-test.run", asPlainUsers)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, realguest.BuiltGuest + "=" + guest}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: plainUser, Gid: plainUser}}
	out, err := cmd.CombinedOutput()
	t.Logf("as user %d:\n%s", plainUser, out)
	for _, test := range []string{"TestKilledInside", "TestContract/Network/inside"} {
		if err != nil || !strings.Contains(string(out), "--- PASS: "+test) {
			t.Errorf("%s failed, or was skipped: %v", test, err)
		}
	}
}

// insideEnv is the name of the TAP for a daemon of daemonEnv: its VM runs inside the
// namespace of descriptors 3 and 4.
const insideEnv = "BANGER_TEST_INSIDE"

// cardOf returns the card of daemonEnv's VM, and its namespace.
func cardOf(spec *vmm.Spec) {
	if tap := os.Getenv(insideEnv); tap != "" {
		spec.NIC = &vmm.NIC{Tap: tap, MAC: network.MAC(spec.ID), MTU: 1500}
		spec.Inside = &vmm.Namespace{User: os.NewFile(3, "user"), Net: os.NewFile(4, "net")}
	}
}

// A daemon that is killed leaves a VM that has its network, and that the next daemon
// adopts, with its namespace.
func TestKilledInside(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("a VMM of root's daemon runs in no namespace; TestAsPlainUser runs this test")
	}
	spec := realguest.Build(t).Spec(t, Name, wire.Config{})
	spec.Lock.Close()
	tap := network.Tap(spec.ID)
	ns := vmmtest.Namespace(t, tap)
	daemon := exec.Command(os.Args[0])
	daemon.Env = append(os.Environ(), daemonEnv+"="+spec.Dir, insideEnv+"="+tap)
	daemon.ExtraFiles = []*os.File{ns.User, ns.Net}
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		rest, _ := io.ReadAll(out)
		t.Fatalf("the daemon did not launch: %v %s", err, rest)
	}
	daemon.Process.Signal(syscall.SIGKILL)
	daemon.Wait()
	ns.Close() // only the VMM has it now

	start := time.Now()
	m, err := New(hostcmd.Host{}).Adopt(t.Context(), spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	defer m.Kill()
	t.Logf("adopted in %v", time.Since(start))
	if m.PID() != pid {
		t.Errorf("adopted process %d, launched %d", m.PID(), pid)
	}
	found, err := namespace.Of(m.PID())
	if err != nil {
		t.Fatal(err)
	}
	found.Close()
	conn, err := m.Dial(t.Context(), vmmtest.PortCard)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ MAC, Answer string }
	if err := json.NewDecoder(conn).Decode(&got); err != nil || got.MAC != network.MAC(spec.ID).String() || got.Answer == "" {
		t.Errorf("the guest has %+v, %v", got, err)
	}
}
