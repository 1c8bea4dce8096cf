package vmmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

// Make returns a driver, and a function that prepares a VM whose guest is a Guest: a
// directory with all files of the Spec, two disks, of which the second is writable, and
// the lock. The suite closes the lock. The binary calls RunVMM first of all.
type Make func(t *testing.T) (vmm.Driver, func(t *testing.T) vmm.Spec)

// LockName is the name of the lock in a VM's directory.
const LockName = "lock"

// Run tests whether a driver fulfils its contract.
func Run(t *testing.T, newDriver Make) {
	if os.Getenv(tapEnv) != "" {
		t.Fatal("the binary must call RunVMM first of all")
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"Probe", testProbe},
		{"Guest", testGuest},
		{"Lock", testLock},
		{"Adopt", testAdopt},
		{"AdoptGone", testAdoptGone},
		{"Data", testData},
		{"Exit", testExit},
		{"Signal", testSignal},
		{"Grow", testGrow},
		{"Balloon", testBalloon},
		{"DiskErrors", testDiskErrors},
		{"DialWithinContext", testDialWithinContext},
		{"LaunchFails", testLaunchFails},
		{"LaunchCanceled", testLaunchCanceled},
		{"Network", testNetwork},
	} {
		t.Run(test.name, func(t *testing.T) {
			driver, newSpec := newDriver(t)
			capabilities, err := driver.Probe(t.Context())
			if err != nil {
				t.Skipf("%s cannot run here: %v (fix: %s)", driver.Name(), err, banger.FixOf(err))
			}
			test.run(t, &fixture{driver, newSpec, capabilities})
		})
	}
}

func testProbe(t *testing.T, f *fixture) {
	c := f.capabilities
	if c.Version == "" || c.Accelerator == "" || c.DefaultVCPUs < 1 || c.MaxVCPUs < c.DefaultVCPUs || c.BootTimeout <= 0 {
		t.Errorf("got %+v", c)
	}
}

// The guest answers, on several streams at once, and goes down when asked to.
func testGuest(t *testing.T, f *fixture) {
	m, spec := f.launch(t)
	c := f.control(t, m, spec)
	c.ask(t, wire.MethodPing, nil)
	full := f.dial(t, m, PortFull)
	if _, err := io.CopyN(io.Discard, full, 200<<10); err != nil {
		t.Fatal(err)
	}
	f.echo(t, m)
	c.ask(t, wire.MethodSync, nil)
	c.ask(t, wire.MethodStop, wire.StopParams{Verb: wire.Poweroff, GraceMS: 1000})
	for {
		event := c.read(t).Event
		if event != nil && event.Kind == wire.EventBye {
			if event.Verb != wire.Poweroff {
				t.Errorf("bye %s", event.Verb)
			}
			break
		}
	}
	want := vmm.ReasonPoweroff
	if !f.capabilities.PowersOff {
		want = vmm.ReasonReset
	}
	f.ended(t, m, want)
	if _, err := m.Dial(f.context(t), PortEcho); err == nil {
		t.Error("a stream to a VM that has ended")
	}
}

// The lock is held exactly as long as the VMM lives.
func testLock(t *testing.T, f *fixture) {
	m, spec := f.launch(t)
	lock := filepath.Join(spec.Dir, LockName)
	if locked, err := vmm.Locked(lock); err != nil || !locked {
		t.Errorf("while it runs: locked %v, %v", locked, err)
	}
	if pid, err := vmm.Holder(lock); err != nil || pid != m.PID() {
		t.Errorf("process %d, %v, holds the lock, the VMM is %d", pid, err, m.PID())
	}
	for range 2 {
		if err := m.Kill(); err != nil {
			t.Errorf("kill: %v", err)
		}
	}
	f.ended(t, m, vmm.ReasonKilled)
	if locked, err := vmm.Locked(lock); err != nil || locked {
		t.Errorf("after its end: locked %v, %v", locked, err)
	}
	if err := m.Kill(); err != nil {
		t.Errorf("kill after the end: %v", err)
	}
	if err := syscall.Kill(m.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there, as a zombie perhaps: %v", m.PID(), err)
	}
}

// A VMM continues when its machine is closed, at any moment, and another driver adopts
// it: the same process, the same boot.
func testAdopt(t *testing.T, f *fixture) {
	m, spec := f.launch(t)
	before := f.control(t, m, spec).hello
	for range 3 {
		full := f.dial(t, m, PortFull)
		if _, err := io.CopyN(io.Discard, full, 50<<10); err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		adopted := f.adopt(t, spec)
		if adopted.PID() != m.PID() {
			t.Errorf("adopted process %d, launched %d", adopted.PID(), m.PID())
		}
		if after := f.control(t, adopted, spec).hello; after.BootID != before.BootID {
			t.Errorf("boot id %s, before %s", after.BootID, before.BootID)
		}
		f.echo(t, adopted)
		m = adopted
	}
	f.act(t, m, wire.Reboot)
	f.ended(t, m, vmm.ReasonReset)
}

func testAdoptGone(t *testing.T, f *fixture) {
	spec := f.newSpec(t)
	spec.Lock.Close()
	if _, err := f.driver.Adopt(f.context(t), spec.Dir); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("never launched: got %v", err)
	}
	if got := f.driver.Ending(spec.Dir); got.Reason != vmm.ReasonUnknown {
		t.Errorf("never launched, ended by %+v", got)
	}
	m, spec := f.launch(t)
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	f.ended(t, m, vmm.ReasonKilled)
	if _, err := f.driver.Adopt(f.context(t), spec.Dir); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("killed: got %v", err)
	}
	f.told(t, spec, vmm.ReasonUnknown)
}

// What a guest has synced is on its disk's file, survives the VMM's death, and is
// there for the next one.
func testData(t *testing.T, f *fixture) {
	m, spec := f.launch(t)
	for i, line := range []string{"first", "second"} {
		if got, want := f.swap(t, m, line), []string{"", "first"}[i]; got != want {
			t.Errorf("before %q the disk held %q, want %q", line, got, want)
		}
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	f.ended(t, m, vmm.ReasonKilled)
	data, err := os.ReadFile(filepath.Join(spec.Dir, spec.Disks[1].File))
	if at := bytes.Index(data, []byte("second\x00")); err != nil || at != dataAt {
		t.Errorf("the disk's file has it at %d, %v", at, err)
	}
	if got := f.swap(t, f.again(t, spec), ""); got != "second" {
		t.Errorf("the next boot found %q", got)
	}
}

func testExit(t *testing.T, f *fixture) {
	powered := vmm.ReasonPoweroff
	if !f.capabilities.PowersOff {
		powered = vmm.ReasonReset
	}
	for verb, want := range map[wire.Verb]vmm.Reason{wire.Poweroff: powered, wire.Reboot: vmm.ReasonReset, Panic: vmm.ReasonReset} {
		t.Run(string(verb), func(t *testing.T) {
			m, spec := f.launch(t)
			f.act(t, m, verb)
			f.ended(t, m, want)
			f.told(t, spec, want)
		})
	}
	t.Run("signal", func(t *testing.T) {
		m, spec := f.launch(t)
		if err := syscall.Kill(m.PID(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		f.ended(t, m, vmm.ReasonSignal)
		f.told(t, spec, vmm.ReasonSignal)
	})
}

// Signal sends the VMM a signal like any other process would, and SIGKILL is Kill.
func testSignal(t *testing.T, f *fixture) {
	for signal, want := range map[unix.Signal]vmm.Reason{unix.SIGTERM: vmm.ReasonSignal, unix.SIGKILL: vmm.ReasonKilled} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			m, _ := f.launch(t)
			f.echo(t, m)
			if err := m.Signal(signal); err != nil {
				t.Fatal(err)
			}
			f.ended(t, m, want)
			if err := m.Signal(signal); err != nil {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

func testGrow(t *testing.T, f *fixture) {
	if !f.capabilities.GrowOnline {
		t.Skipf("%s does not grow disks while they are in use", f.driver.Name())
	}
	m, spec := f.launch(t)
	f.echo(t, m)
	const grown = 96 * banger.MiB
	disk := spec.Disks[1]
	if err := os.Truncate(filepath.Join(spec.Dir, disk.File), int64(grown)); err != nil {
		t.Fatal(err)
	}
	if err := m.Grow(f.context(t), disk.Role, grown); err != nil {
		t.Fatal(err)
	}
	for { // the guest hears of it a moment later; each look is a round trip
		var sizes []int64
		if err := json.NewDecoder(f.dial(t, m, PortSizes)).Decode(&sizes); err != nil || len(sizes) < 2 {
			t.Fatalf("sizes %v, %v", sizes, err)
		}
		if sizes[1] == int64(grown) {
			return
		}
	}
}

// The balloon takes memory from a running guest and returns it, also for a daemon that
// has adopted the VMM, and never more than the VMM was launched with.
func testBalloon(t *testing.T, f *fixture) {
	if !f.capabilities.Balloon {
		t.Skipf("%s has no balloon", f.driver.Name())
	}
	m, spec := f.launch(t)
	f.echo(t, m)
	before, err := m.Memory(f.context(t))
	if err != nil || before != (vmm.Memory{Launched: spec.Memory, Told: f.capabilities.TellsBalloon}) {
		t.Fatalf("%+v, %v", before, err)
	}
	less := spec.Memory * 3 / 4 / banger.MiB * banger.MiB
	if err := m.SetMemory(f.context(t), less); err != nil {
		t.Fatal(err)
	}
	f.given(t, m, spec.Memory-less)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	m = f.adopt(t, spec)
	if now, err := m.Memory(f.context(t)); err != nil || now.Launched != spec.Memory {
		t.Errorf("adopted with %+v, %v", now, err)
	}
	if err := m.SetMemory(f.context(t), spec.Memory+banger.MiB); err == nil {
		t.Error("it was given more than it was launched with")
	}
	if err := m.SetMemory(f.context(t), spec.Memory); err != nil {
		t.Fatal(err)
	}
	f.given(t, m, 0)
	f.echo(t, m)
}

// A guest whose disk cannot be written is paused, and the driver reports which disk
// and why, also one that adopts the VMM meanwhile. When the disk works again the
// guest continues, and has lost nothing.
func testDiskErrors(t *testing.T, f *fixture) {
	m, spec := f.launch(t)
	f.echo(t, m)
	if errs, _ := m.DiskErrors(); len(errs) > 0 {
		t.Fatalf("before any failure: %v", errs)
	}
	if !f.capabilities.Pauses {
		return // its guest gets the error; what it reports is the driver's own test
	}
	limit := func(size uint64) {
		t.Helper()
		if err := limitFiles(m.PID(), size); err != nil {
			t.Fatal(err)
		}
	}
	limit(dataAt)
	conn := f.dial(t, m, PortData)
	fmt.Fprintln(conn, "written in the end")
	want := []vmm.DiskError{{Role: spec.Disks[1].Role, Errno: unix.EFBIG, Paused: true}}
	f.failing(t, m, want)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	m = f.adopt(t, spec)
	if errs, _ := m.DiskErrors(); len(errs) != 1 || errs[0].Role != want[0].Role || !errs[0].Paused {
		t.Errorf("adopted with %v, want %v", errs, want)
	}
	limit(unix.RLIM_INFINITY)
	f.failing(t, m, nil)
	if got := f.swap(t, m, ""); got != "written in the end" {
		t.Errorf("the disk has %q", got)
	}
}

// failing waits until a machine reports these disk errors.
func (f *fixture) failing(t *testing.T, m vmm.Machine, want []vmm.DiskError) {
	t.Helper()
	for {
		errs, changed := m.DiskErrors()
		if slices.Equal(errs, want) {
			return
		}
		select {
		case <-changed:
		case <-f.context(t).Done():
			t.Fatalf("disk errors %v, want %v", errs, want)
		}
	}
}

// given waits until a guest has given back this much, if the VMM reports it. It polls:
// there is no event.
func (f *fixture) given(t *testing.T, m vmm.Machine, want banger.Size) {
	t.Helper()
	ctx := f.context(t)
	for tells := f.capabilities.TellsBalloon; tells; time.Sleep(10 * time.Millisecond) {
		now, err := m.Memory(ctx)
		if err != nil {
			t.Fatalf("it has given back %v of %v: %v", now.Balloon, want, err)
		}
		if now.Told && now.Balloon == want {
			return
		}
	}
}

func testDialWithinContext(t *testing.T, f *fixture) {
	m, _ := f.launch(t)
	ctx, cancel := context.WithTimeout(f.context(t), time.Microsecond)
	defer cancel()
	if _, err := m.Dial(ctx, PortEcho); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	f.echo(t, m)
}

// assertNothing checks that a failed launch left nothing behind.
func assertNothing(t *testing.T, spec vmm.Spec) {
	t.Helper()
	spec.Lock.Close()
	if locked, err := vmm.Locked(filepath.Join(spec.Dir, LockName)); err != nil || locked {
		t.Errorf("locked %v, %v", locked, err)
	}
	entries, err := os.ReadDir(spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Type()&os.ModeSocket != 0 {
			t.Errorf("socket %s was left", entry.Name())
		}
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if open, err := os.Readlink(fd); err == nil && strings.HasPrefix(open, spec.Dir) {
			t.Errorf("%s was left open", open)
		}
	}
}

func testLaunchFails(t *testing.T, f *fixture) {
	spec := f.newSpec(t)
	if err := os.Remove(filepath.Join(spec.Dir, spec.Kernel)); err != nil {
		t.Fatal(err)
	}
	m, err := f.driver.Launch(f.context(t), spec)
	if err == nil {
		m.Kill()
		t.Fatal("launched without a kernel")
	}
	if banger.KindOf(err) != banger.Unready || banger.FixOf(err) == "" {
		t.Errorf("kind %s, fix %q: %v", banger.KindOf(err), banger.FixOf(err), err)
	}
	t.Logf("the error: %v", err)
	assertNothing(t, spec)
}

func testLaunchCanceled(t *testing.T, f *fixture) {
	for _, after := range []time.Duration{0, time.Millisecond, 30 * time.Millisecond} {
		spec := f.newSpec(t)
		ctx, cancel := context.WithTimeout(f.context(t), after)
		m, err := f.driver.Launch(ctx, spec)
		cancel()
		if err == nil {
			spec.Lock.Close()
			m.Kill()
			f.ended(t, m, vmm.ReasonKilled)
			m.Close()
			continue // it was faster
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", after, err)
		}
		assertNothing(t, spec)
	}
}
