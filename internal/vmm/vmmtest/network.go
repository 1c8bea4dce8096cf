package vmmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/network"
	"banger/internal/network/namespace"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// tapEnv makes a binary the process that makes a TAP in a namespace; its value is the
// TAP's name.
const tapEnv = "BANGER_TEST_TAP"

// runTap does not return in a process that makes a TAP: it says so, and ends with its
// standard input.
func runTap() {
	name := os.Getenv(tapEnv)
	if name == "" {
		return
	}
	if err := makeTap(name, os.Getuid()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(os.Getpid())
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// Namespace makes a namespace with a TAP in it, or skips the test on a host that refuses
// that. The test's end closes it.
func Namespace(t *testing.T, tap string) *network.Namespace {
	t.Helper()
	if err := namespace.CheckDevice(false); err != nil {
		t.Skipf("%v; fix: %s", err, banger.FixOf(err))
	}
	hold, release := io.Pipe()
	said, say := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := hostcmd.Host{}.Run(context.Background(), hostcmd.Cmd{Argv: []string{"/proc/self/exe"},
			Env: []string{tapEnv + "=" + tap, "GORACE=atexit_sleep_ms=0"}, Stdin: hold, Stdout: say, Namespace: true})
		say.CloseWithError(err)
		ended <- err
	}()
	line, err := bufio.NewReader(said).ReadString('\n')
	var pid int
	if err == nil {
		_, err = fmt.Sscan(line, &pid)
	}
	var ns *network.Namespace
	if err == nil {
		ns, err = namespace.Of(pid)
	}
	release.Close()
	if ended := <-ended; ended != nil {
		err = ended
	}
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSPC) {
		t.Skipf("no user namespaces here: %v; fix: banger doctor", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// A guest with a card has its MAC and reaches the host, where the daemon is and inside a
// namespace, before and after it is adopted. A TAP that is missing or in use is an error
// that says so.
func testNetwork(t *testing.T, f *fixture) {
	t.Run("inside", func(t *testing.T) { f.testInside(t) })
	t.Run("beside", func(t *testing.T) { f.testBeside(t) })
}

// nic is a card that no other VM of a test has.
func nic(id banger.VMID) *vmm.NIC {
	return &vmm.NIC{Tap: network.Tap(id), MAC: network.MAC(id), MTU: 1400}
}

func (f *fixture) testInside(t *testing.T) {
	spec := f.newSpec(t)
	spec.NIC = nic(spec.ID)
	spec.Inside = Namespace(t, spec.NIC.Tap)
	m, err := f.driver.Launch(f.context(t), spec)
	spec.Lock.Close()
	if errors.Is(err, process.ErrAccountInside) {
		return // as it must be: a VMM of root's daemon runs beside it
	}
	if err != nil {
		tell(t, spec)
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Kill(); m.Close() })
	f.reaches(t, m, spec)
	assertConfined(t, m.PID())
	f.refusesTap(t, spec)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	adopted := f.adopt(t, spec)
	if adopted.PID() != m.PID() {
		t.Errorf("adopted process %d, launched %d", adopted.PID(), m.PID())
	}
	f.reaches(t, adopted, spec)
	found, err := namespace.Of(adopted.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	adopted.Kill()
	f.ended(t, adopted, vmm.ReasonKilled)
	again := f.newSpec(t) // the TAP is free again, and the namespace is still there
	again.NIC, again.Inside = spec.NIC, found
	f.reaches(t, f.boot(t, again), again)
}

func (f *fixture) testBeside(t *testing.T) {
	spec := f.newSpec(t)
	Beside(t, &spec)
	f.reaches(t, f.boot(t, spec), spec)
	if f.driver.Name() != FakeName { // which does without a TAP that is missing
		f.refusesTap(t, spec)
	}
}

// Beside gives a VM a card whose TAP is where the daemon is, which is root: in a network
// namespace of this thread's, which this goroutine keeps. It skips the test of a plain
// user.
func Beside(t *testing.T, spec *vmm.Spec) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespaces
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("only root has a network of its own here: %v", err)
	}
	OpenTunToAll(t)
	spec.NIC = nic(spec.ID)
	owner, err := process.ThisHost().Owner(spec.Dir, spec.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := makeTap(spec.NIC.Tap, owner); err != nil {
		t.Fatal(err)
	}
}

// OpenTunToAll lets every user open /dev/net/tun, as on most hosts, for this thread and the
// processes that it starts, or skips the test. The caller has locked the thread, and lets
// it end.
func OpenTunToAll(t *testing.T) {
	t.Helper()
	closed := namespace.CheckDevice(true)
	if closed == nil {
		return
	}
	if err := coverTun(t.TempDir()); err != nil {
		t.Skipf("%v (%v); fix: %s", closed, err, banger.FixOf(closed))
	}
}

// coverTun covers the device, in a mount namespace of this thread's.
func coverTun(dir string) error {
	const tun = "/dev/net/tun"
	var device unix.Stat_t
	if err := unix.Stat(tun, &device); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	open := filepath.Join(dir, "tun")
	if err := unix.Mknod(open, unix.S_IFCHR, int(device.Rdev)); err != nil {
		return err
	}
	return errors.Join(unix.Chmod(open, 0o666), unix.Mount(open, tun, "", unix.MS_BIND, ""))
}

// reaches has a guest ask for the host's MAC.
func (f *fixture) reaches(t *testing.T, m vmm.Machine, spec vmm.Spec) {
	t.Helper()
	var got asked
	if err := json.NewDecoder(f.dial(t, m, PortCard)).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Error != "" || got.MAC != spec.NIC.MAC.String() || got.Answer == "" {
		t.Errorf("the guest has %+v, want a card %v and an answer", got, spec.NIC.MAC)
	}
	if got.MTU != spec.NIC.MTU && f.driver.Name() != "firecracker" { // older ones do not say it
		t.Errorf("the guest's MTU is %d, want %d", got.MTU, spec.NIC.MTU)
	}
}

// refusesTap launches VMs whose TAP another VMM has, and whose TAP does not exist.
func (f *fixture) refusesTap(t *testing.T, running vmm.Spec) {
	t.Helper()
	for tap, want := range map[string]string{running.NIC.Tap: "another process has the TAP", "bgmissing": "there is no TAP bgmissing"} {
		spec := f.newSpec(t)
		spec.NIC, spec.Inside = &vmm.NIC{Tap: tap, MAC: running.NIC.MAC, MTU: running.NIC.MTU}, running.Inside
		m, err := f.driver.Launch(f.context(t), spec)
		if err == nil {
			m.Kill()
			t.Fatalf("launched with %s", tap)
		}
		if banger.KindOf(err) != banger.Unready || banger.FixOf(err) == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v (fix: %s), want %q", tap, err, banger.FixOf(err), want)
		}
		assertNothing(t, spec)
	}
}

// assertConfined checks that a VMM inside a namespace has no capability, can get none, and
// has nothing of the namespace open.
func assertConfined(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), line+"\n") {
			t.Errorf("lacks %q:\n%s", line, status)
		}
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) < 3 {
		t.Errorf("its descriptors: %v, %v", fds, err)
	}
	for _, fd := range fds {
		open, err := os.Readlink(fd)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a connection that has just ended
		}
		if err != nil || strings.HasPrefix(open, "user:[") || strings.HasPrefix(open, "net:[") {
			t.Errorf("it has %s open, %v", open, err)
		}
	}
}
