package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
	"banger/internal/vmm/vmmtest"
)

// goodHost is a host where KVM works, as far as one can tell.
func goodHost(t *testing.T) process.Host {
	t.Helper()
	h := process.Host{CPUInfo: filepath.Join(t.TempDir(), "cpuinfo"), KVM: filepath.Join(t.TempDir(), "kvm"), Files: process.OpenFiles}
	if err := errors.Join(os.WriteFile(h.CPUInfo, []byte("flags\t: fpu vmx\n"), 0o600), os.WriteFile(h.KVM, nil, 0o600), os.Chmod(h.KVM, 0o666)); err != nil {
		t.Fatal(err)
	}
	return h
}

// scripted returns a driver whose Firecracker is a shell script.
func scripted(t *testing.T, body string) *Driver {
	t.Helper()
	path := filepath.Join(t.TempDir(), "firecracker")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Driver{run: hostcmd.Host{}, places: Places{Configured: path}, host: goodHost(t)}
}

// The whole contract, with a Firecracker that has no VMs.
func TestContractWithoutVMs(t *testing.T) {
	for _, version := range []string{"1.12.1", "1.17.0"} {
		t.Run(version, func(t *testing.T) {
			vmmtest.Run(t, func(t *testing.T) (vmm.Driver, func(*testing.T) vmm.Spec) {
				return install(t, orders{Version: version}), newSpec
			})
		})
	}
}

func TestProbe(t *testing.T) {
	bad := goodHost(t)
	if err := os.WriteFile(bad.CPUInfo, []byte("flags\t: fpu\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	configured := func(path string) *Driver {
		return &Driver{run: hostcmd.Host{}, host: goodHost(t), places: Places{Configured: path}}
	}
	old, bundledOld := scripted(t, "echo Firecracker v1.11.9"), scripted(t, "echo Firecracker v1.11.9")
	bundledOld.places = Places{Bundled: bundledOld.places.Configured}
	t.Setenv("PATH", "/usr/bin:/bin")
	noKVM, root := scripted(t, "echo Firecracker v1.12.1"), scripted(t, "echo Firecracker v1.12.1")
	noKVM.host, root.host.Root = bad, true
	root.host.Self = t.TempDir()
	for name, text := range map[string]string{"uid_map": "0 1000 1\n1 100000 65536\n", "status": "Name:\tbangerd\nCapEff:\t000001ffffffffff\n"} {
		if err := os.WriteFile(filepath.Join(root.host.Self, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		driver   *Driver
		why, fix string
	}{
		"missing":         {configured("/nonexistent/firecracker"), "no Firecracker at /nonexistent/firecracker", "firecracker_bin"},
		"missing name":    {configured("no-such-firecracker"), "no Firecracker at no-such-firecracker", "firecracker_bin"},
		"not executable":  {configured(plain), "cannot be executed", "chmod +x " + plain},
		"too old":         {old, "is Firecracker 1.11.9, and 1.12 is the oldest", "firecracker_bin"},
		"bundled too old": {bundledOld, "is Firecracker 1.11.9, and 1.12 is the oldest", "make runtime-bundle"},
		"something else":  {scripted(t, "echo bash 5"), "unrecognised `--version` output", "firecracker_bin"},
		"broken":          {scripted(t, "echo no >&2; exit 3"), "ask Firecracker for its version", "firecracker_bin"},
		"no KVM":          {noKVM, "no virtualisation", "firmware"},
		"root":            {root, "root cannot switch to another user", "plain user"},
	} {
		_, err := test.driver.Probe(t.Context())
		if banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), test.why) || !strings.Contains(banger.FixOf(err), test.fix) {
			t.Errorf("%s: %v (fix: %s)", name, err, banger.FixOf(err))
		}
	}
	driver := scripted(t, "echo Firecracker v1.17.0-dev; echo; echo more")
	if c, err := driver.Probe(t.Context()); err != nil || c.Version != "1.17.0-dev" || c.PowersOff || !c.GrowOnline || c.Note+c.Fix != "" {
		t.Errorf("got %+v, %v", c, err)
	}
	driver.host.Files = 1024
	if c, err := driver.Probe(t.Context()); err != nil || !strings.Contains(c.Note, "may open 1024 files") || !strings.Contains(c.Fix, "nofile 4096") {
		t.Errorf("few files: %+v, %v", c, err)
	}
	if err := os.WriteFile(driver.places.Configured, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := driver.Probe(t.Context()); err == nil {
		t.Error("another Firecracker in its place was not asked")
	}
}

// Whoever may not open KVM's device is told to join its group.
func TestProbeWithoutPermission(t *testing.T) {
	driver := scripted(t, "echo Firecracker v1.12.1")
	if err := os.Chmod(driver.host.KVM, 0); err != nil {
		t.Fatal(err)
	}
	defer vmmtest.Plain(t, driver.host)()
	if _, err := driver.Probe(t.Context()); banger.KindOf(err) != banger.Unready || banger.FixOf(err) != process.JoinKVM {
		t.Errorf("got %v, fix: %s", err, banger.FixOf(err))
	}
}

// The bundle's Firecracker serves where PATH has none.
func TestFind(t *testing.T) {
	driver := scripted(t, "echo Firecracker v1.12.1")
	bundled := driver.places.Configured
	driver.places = Places{Bundled: bundled}
	t.Setenv("PATH", t.TempDir())
	if path, err := driver.find(); err != nil || path != bundled {
		t.Errorf("got %s, %v", path, err)
	}
	inPath := filepath.Join(os.Getenv("PATH"), "firecracker")
	if err := os.WriteFile(inPath, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if path, err := driver.find(); err != nil || path != inPath {
		t.Errorf("got %s, %v", path, err)
	}
	for _, bundle := range []string{bundled, ""} { // one in PATH is in the way of a good one, or there is none
		driver.places.Bundled = bundle
		want := map[bool]string{true: `firecracker_bin = "` + bundled + `"`, false: "replace " + inPath}[bundle != ""]
		if _, err := driver.inspect(t.Context()); err == nil || !strings.HasPrefix(banger.FixOf(err), want) {
			t.Errorf("got %v, fix: %s", err, banger.FixOf(err))
		}
	}
	os.Remove(inPath)
	driver.places.Bundled = filepath.Join(t.TempDir(), "firecracker")
	if _, err := driver.find(); banger.FixOf(err) != installFix || !strings.HasPrefix(installFix, "make runtime-bundle") {
		t.Errorf("got %v", err)
	}
}

// Whatever a Firecracker does wrong when it starts is told with its own fix, and
// nothing of it is left.
func TestLaunchFailures(t *testing.T) {
	for name, test := range map[string]struct {
		orders   orders
		break_   func(t *testing.T, d *Driver, spec *vmm.Spec)
		why, fix string
	}{
		"ends at once": {orders: orders{Ends: "RunWithApi(FailedToBindSocket)"}, why: "it exited at once: exit status 1: RunWithApi(FailedToBindSocket)", fix: "less "},
		"dies":         {orders: orders{DiesAt: "PUT /vsock"}, why: "it exited at once: exit status 148: told to die", fix: "/firecracker.log"},
		"KVM": {orders: orders{Refuse: "PUT /actions", Message: "Start microvm error: Internal error while starting microVM: Kvm error: Error creating KVM object: Permission denied (os error 13) Make sure the user launching the firecracker process is configured on the /dev/kvm file's ACL."},
			why: "Firecracker refused PUT /actions: Start microvm error", fix: process.JoinKVM},
		"kernel":  {orders: orders{Refuse: "PUT /actions", Message: "Kernel Loader: Invalid Elf magic number"}, why: "Invalid Elf magic", fix: "make runtime"},
		"machine": {orders: orders{Refuse: "PUT /machine-config", Message: "no"}, why: "Firecracker refused PUT /machine-config: no", fix: "less "},
		"drive": {orders: orders{Refuse: "PUT /drives/{drive_id}", Message: strings.Repeat("x\n", 1000)},
			why: "Firecracker refused PUT /drives/base: x x x", fix: "less "},
		"boot":    {orders: orders{Refuse: "PUT /boot-source"}, why: "Firecracker answered PUT /boot-source with status 400", fix: "less "},
		"entropy": {orders: orders{Refuse: "PUT /entropy", Message: "no"}, why: "refused PUT /entropy", fix: "less "},
		"balloon": {orders: orders{Refuse: "PUT /balloon", Message: "no"}, why: "refused PUT /balloon", fix: "less "},
		"serial":  {orders: orders{Version: "1.16.1", Refuse: "PUT /serial", Message: "no"}, why: "refused PUT /serial", fix: "less "},
		"disk": {break_: func(t *testing.T, _ *Driver, spec *vmm.Spec) { os.Remove(filepath.Join(spec.Dir, config.OverlayName)) },
			why: "overlay.ext4: no such file or directory", fix: "overlay.ext4 back, from a backup"},
		"vCPUs":  {break_: func(_ *testing.T, _ *Driver, spec *vmm.Spec) { spec.VCPUs = 33 }, why: "1 to 32 vCPUs, not 33", fix: "banger vm set --vcpu 2 otter"},
		"memory": {break_: func(_ *testing.T, _ *Driver, spec *vmm.Spec) { spec.Memory = 1 << 50 }, why: "the VM needs 1024T of memory", fix: "banger vm set --memory 1G otter"},
		"program": {break_: func(t *testing.T, d *Driver, _ *vmm.Spec) { os.Chmod(d.places.Configured, 0o600) },
			why: "cannot be executed", fix: "chmod +x "},
	} {
		t.Run(name, func(t *testing.T) {
			driver, spec := install(t, test.orders), newSpec(t)
			if test.break_ != nil {
				test.break_(t, driver, &spec)
			}
			m, err := driver.Launch(t.Context(), spec)
			if err == nil {
				m.Kill()
				t.Fatal("it was launched")
			}
			if !strings.Contains(err.Error(), test.why) || !strings.Contains(banger.FixOf(err), test.fix) || len(err.Error()) > 700 || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v (fix: %s)", err, banger.FixOf(err))
			}
			if kind := banger.KindOf(err); kind != banger.Unready && kind != banger.Invalid {
				t.Errorf("kind %s", kind)
			}
			assertLeft(t, spec)
		})
	}
}

// assertLeft says that a launch which failed left no VMM, no lock and no socket, and
// has nothing open.
func assertLeft(t *testing.T, spec vmm.Spec) {
	t.Helper()
	spec.Lock.Close()
	if locked, err := vmm.Locked(config.VMDir(spec.Dir).Lock()); err != nil || locked {
		t.Errorf("locked %v, %v", locked, err)
	}
	entries, err := os.ReadDir(spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		want := os.FileMode(0o600)
		if entry.Name() == spec.Kernel || entry.Name() == spec.Disks[0].File {
			want = 0o644
		}
		info, err := entry.Info()
		if err != nil || entry.Type()&os.ModeSocket != 0 || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", entry.Name(), info.Mode(), err)
		}
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range open {
		if file, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && strings.HasPrefix(file, spec.Dir) {
			t.Errorf("%s is still open", file)
		}
		fd, _ := strconv.Atoi(entry.Name())
		address, _ := unix.Getsockname(fd)
		if socket, is := address.(*unix.SockaddrUnix); is && strings.HasSuffix(socket.Name, knockSocket) {
			t.Error("it still listens for the guest")
		}
	}
}

// A Firecracker that never serves its API is ended with the context.
func TestLaunchCanceled(t *testing.T) {
	spec := newSpec(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := install(t, orders{Hangs: true}).Launch(ctx, spec); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	assertLeft(t, spec)
}

// What an earlier VMM left is no obstacle.
func TestLaunchOverLeftovers(t *testing.T) {
	spec := newSpec(t)
	for _, name := range []string{apiSocket, vsockSocket, knockSocket, spec.Log} {
		if err := os.WriteFile(filepath.Join(spec.Dir, name), []byte("Vmm is stopping.\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := launch(t, install(t, orders{}), spec)
	assertEcho(t, m)
	if log, err := os.ReadFile(filepath.Join(spec.Dir, spec.Log)); err != nil || len(log) > 0 {
		t.Errorf("the log begins with %q, %v", log, err)
	}
	m.Signal(unix.SIGKILL)
	<-m.Ended()
}

func launch(t *testing.T, driver *Driver, spec vmm.Spec) *machine {
	t.Helper()
	m, err := driver.Launch(t.Context(), spec)
	spec.Lock.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Kill()
		<-m.Ended()
		m.Close()
	})
	return m.(*machine)
}

func assertEcho(t *testing.T, m vmm.Machine) {
	t.Helper()
	conn, err := m.Dial(t.Context(), vmmtest.PortEcho)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("hello"))
	got := make([]byte, 5)
	if n, err := conn.Read(got); err != nil || string(got[:n]) != "hello" {
		t.Errorf("%q, %v", got[:n], err)
	}
}

// The VMM is alone in its session, and has the lock and nothing else of ours.
func TestLaunchInheritsNothing(t *testing.T) {
	t.Setenv("SECRET_OF_THE_DAEMON", "1")
	spec := newSpec(t)
	secret, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	driver := scripted(t, `case $1 in --version) echo 'Firecracker v1.12.1'; exit;; esac
env; ulimit -n; echo "session $(cut -d' ' -f6 /proc/$$/stat) $$"; exec ls -l /proc/self/fd`)
	var before, raised syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	raised = before
	raised.Cur = min(1024, before.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
	if _, err := driver.Launch(t.Context(), spec); err == nil {
		t.Fatal("launched")
	}
	data, err := os.ReadFile(filepath.Join(spec.Dir, spec.Console))
	if err != nil {
		t.Fatal(err)
	}
	said := string(data)
	lock := " 3 -> " + config.VMDir(spec.Dir).Lock() + "\n"
	const itsOwn = 1 // ls has the directory open
	if strings.Contains(said, "SECRET") || strings.Count(said, " -> ") != 4+itsOwn || !strings.Contains(said, " 0 -> /dev/null\n") || !strings.Contains(said, lock) {
		t.Error(said)
	}
	_, rest, _ := strings.Cut(said, "session ")
	if fields := strings.Fields(rest); len(fields) < 2 || fields[0] != fields[1] {
		t.Error(said)
	}
	if !strings.Contains(said, fmt.Sprintf("\n%d\n", before.Max)) {
		t.Error(said)
	}
}

// A socket in the VMM's place that is another process's is not believed.
func TestStolenSocket(t *testing.T) {
	spec := newSpec(t)
	m := launch(t, install(t, orders{}), spec)
	assertEcho(t, m)
	m.api.close()
	for _, name := range []string{apiSocket, vsockSocket} {
		if err := os.Remove(filepath.Join(spec.Dir, name)); err != nil {
			t.Fatal(err)
		}
		listener, err := m.dir.Listen(name)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
	}
	if _, err := m.Dial(t.Context(), vmmtest.PortEcho); err == nil || !strings.Contains(err.Error(), "listens on v.sock, the VMM is process") {
		t.Errorf("got %v", err)
	}
	if err := m.Grow(t.Context(), vmm.Overlay, 0); err == nil || !strings.Contains(err.Error(), "listens on api.sock, the VMM is process") {
		t.Errorf("got %v", err)
	}
}

func TestGrowRefusesLess(t *testing.T) {
	spec := newSpec(t)
	m := launch(t, install(t, orders{}), spec)
	file := filepath.Join(spec.Dir, config.OverlayName)
	if err := os.Truncate(file, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := m.Grow(t.Context(), vmm.Overlay, 4<<20); err == nil || !strings.Contains(err.Error(), "fewer than the 4194304") {
		t.Errorf("got %v", err)
	}
	if err := m.Grow(t.Context(), vmm.Overlay, 2<<20); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(file, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := m.Grow(t.Context(), vmm.Overlay, 1<<20); err == nil || !strings.Contains(err.Error(), "fewer than the 2097152") {
		t.Errorf("got %v", err)
	}
	if err := m.Grow(t.Context(), vmm.Work, 1<<20); err == nil || !strings.Contains(err.Error(), "no such disk") {
		t.Errorf("got %v", err)
	}
}

// A dial waits for the guest, and is not fooled by a Firecracker that says
// anything but OK.
func TestDialWaits(t *testing.T) {
	m := launch(t, install(t, orders{NoGuest: true}), newSpec(t))
	dialed := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := m.Dial(ctx, wire.PortControl)
		dialed <- err
	}()
	select {
	case err := <-dialed:
		t.Errorf("got %v", err)
	case <-time.After(30 * time.Millisecond):
	}
	cancel()
	if err := <-dialed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	odd := launch(t, install(t, orders{OddHands: "NO " + strings.Repeat("x", 1000)}), newSpec(t))
	if _, err := odd.Dial(t.Context(), wire.PortControl); err == nil || !strings.Contains(err.Error(), "Firecracker answered") {
		t.Errorf("got %v", err)
	}
}

// What the guest says at once is not lost.
func TestHandshakeKeepsEarlyBytes(t *testing.T) {
	host, guest := net.Pipe()
	defer host.Close()
	go func() {
		buffer := make([]byte, 64)
		n, _ := guest.Read(buffer)
		guest.Write([]byte("OK 1073741824\nearly " + string(buffer[:n])))
		guest.Close()
	}()
	if err := shakeHands(host, 22); err != nil {
		t.Fatal(err)
	}
	early := make([]byte, 64)
	if n, err := host.Read(early); err != nil || string(early[:n]) != "early CONNECT 22\n" {
		t.Errorf("%q, %v", early[:n], err)
	}
}

func TestEnding(t *testing.T) {
	failed := vmm.Exit{Reason: vmm.ReasonFailed, Detail: "exit status 156"}
	for name, test := range map[string]struct {
		exit vmm.Exit
		log  []string
		want vmm.Exit
	}{
		"reset":         {vmm.Exit{Reason: vmm.ReasonUnknown}, []string{"Vmm is stopping.", "Vmm is stopping."}, vmm.Exit{Reason: vmm.ReasonReset}},
		"triple fault":  {vmm.Exit{Reason: vmm.ReasonUnknown}, []string{"Received KVM_EXIT_SHUTDOWN signal", "Vmm is stopping."}, vmm.Exit{Reason: vmm.ReasonReset, Detail: "triple fault"}},
		"without words": {vmm.Exit{Reason: vmm.ReasonUnknown}, []string{"Artificially kick devices."}, vmm.Exit{Reason: vmm.ReasonUnknown}},
		"killed":        {vmm.Exit{Reason: vmm.ReasonKilled}, []string{"Vmm is stopping."}, vmm.Exit{Reason: vmm.ReasonKilled}},
		"signal":        {vmm.Exit{Reason: vmm.ReasonSignal, Detail: "SIGTERM"}, nil, vmm.Exit{Reason: vmm.ReasonSignal, Detail: "SIGTERM"}},
		"hang-up":       {failed, []string{"Shutting down VM after intercepting signal 1, code 0."}, vmm.Exit{Reason: vmm.ReasonSignal, Detail: "signal 1, code 0."}},
		"failed":        {failed, []string{"what it said"}, vmm.Exit{Reason: vmm.ReasonFailed, Detail: "exit status 156: what it said"}},
	} {
		if got := ending(test.exit, test.log); got != test.want {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := strings.Repeat("\x00", 100<<10) + "2026-11-24T14:27:26.332219536 [x:fc_vcpu 0] Vmm is stopping.\n\nplain\twords\n[x] 2026\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := lastLines(path), []string{"Vmm is stopping.", "plain words", "[x] 2026"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if lines := lastLines(path + ".none"); lines != nil {
		t.Errorf("got %q", lines)
	}
}

// What Firecracker says after its log was cut follows what was left, with no hole.
func TestLogIsAppendedTo(t *testing.T) {
	spec := newSpec(t)
	m := launch(t, install(t, orders{}), spec)
	path := filepath.Join(spec.Dir, spec.Log)
	if err := os.WriteFile(path, []byte("one line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4); err != nil {
		t.Fatal(err)
	}
	assertAppends(t, m.proc, path)
	conn, err := m.Dial(t.Context(), vmmtest.PortAct)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, wire.Reboot)
	<-m.Ended()
	if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), "one 2026-") || m.Exit().Reason != vmm.ReasonReset {
		t.Errorf("%q, %v, ended by %v", text, err, m.Exit())
	}
}

// assertAppends looks at how a process has a file open.
func assertAppends(t *testing.T, proc *process.Process, path string) {
	t.Helper()
	fds := fmt.Sprintf("/proc/%d/fd", proc.PID())
	names, err := os.ReadDir(fds)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, fd := range names {
		if target, _ := os.Readlink(filepath.Join(fds, fd.Name())); target != path {
			continue
		}
		found = true
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", proc.PID(), fd.Name()))
		if err != nil {
			t.Fatal(err)
		}
		_, flags, _ := strings.Cut(string(info), "flags:")
		var open int
		fmt.Sscanf(flags, "%o", &open)
		if open&unix.O_APPEND == 0 {
			t.Errorf("descriptor %s is open with %o", fd.Name(), open)
		}
	}
	if !found {
		t.Errorf("process %d does not have %s open", proc.PID(), path)
	}
}
