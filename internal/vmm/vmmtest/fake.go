package vmmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/operation"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// FakeName is the fake driver's name.
const FakeName = "fake"

// fakeSocket is the one socket of a fake VM.
const fakeSocket = "fake.sock"

const (
	fakeLog   = FakeName + ".log"
	fakeEnded = "fake VMM: ended by " // and the reason, in its log
)

// Fake is a driver whose VMM is a child process of this binary. It outlives its
// parent, so that adoption can be tested; the test's end ends it.
type Fake struct {
	t      testing.TB
	mu     sync.Mutex
	faults Faults
	life   time.Duration
}

// NewFake makes a fake driver. The binary must call Main, or RunVMM first of
// all. t may be nil where there is no test, in a daemon that a test runs: then
// the VMs live until they are killed, or for ten minutes.
func NewFake(t testing.TB, faults ...Fault) *Fake {
	return &Fake{t: t, faults: faults, life: 10 * time.Minute}
}

// SetLife replaces how long the VMs launched from now on live at most.
func (f *Fake) SetLife(life time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life = life
}

// SetFaults replaces the faults of the VMs launched from now on.
func (f *Fake) SetFaults(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

func (f *Fake) has(fault Fault) (Faults, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.faults), f.faults.has(fault)
}

// Name implements vmm.Driver.
func (f *Fake) Name() string { return FakeName }

// Probe implements vmm.Driver.
func (f *Fake) Probe(context.Context) (vmm.Capabilities, error) {
	if _, fails := f.has(FailsProbe); fails {
		return vmm.Capabilities{}, &banger.Error{Kind: banger.Unready, Why: errors.New("the fake driver was told not to work here"), Fix: "banger doctor"}
	}
	return vmm.Capabilities{Version: "1", Accelerator: "fake", MaxVCPUs: 8, DefaultVCPUs: 1,
		GrowOnline: true, Balloon: true, TellsBalloon: true, PowersOff: true, Pauses: true, BootTimeout: 20 * time.Second}, nil
}

// Launch implements vmm.Driver.
func (f *Fake) Launch(ctx context.Context, spec vmm.Spec) (_ vmm.Machine, err error) {
	var steps operation.Undo
	defer steps.OnError(ctx, &err)
	dir, err := process.OpenDir(spec.Dir)
	if err != nil {
		return nil, err
	}
	steps.Push("open directory", func(context.Context) error { return dir.Close() })
	steps.Push("make socket", func(context.Context) error { return dir.Remove(fakeSocket) })
	faults, _ := f.has("")
	f.mu.Lock()
	life := f.life
	f.mu.Unlock()
	proc, err := forkFake(dir, spec, faults, life)
	if err != nil {
		return nil, err
	}
	steps.Push("fork", func(context.Context) error { return proc.End() })
	m, err := attachFake(ctx, proc, dir, spec.Log)
	if err != nil {
		select { // a dial can miss the deadline a moment before ctx does
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-proc.Done():
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		said := lastWords(dir, spec.Log)
		if tap := process.ExplainTap(said, spec); tap != nil {
			return nil, tap
		}
		return nil, &banger.Error{Kind: banger.Unready, What: "launch the fake VMM",
			Why: errors.New(said), Fix: "less " + filepath.Join(spec.Dir, spec.Log)}
	}
	steps.Keep()
	return m, f.endWithTest(proc.PID())
}

// endWithTest kills the VMM at the test's end.
func (f *Fake) endWithTest(pid int) error {
	if f.t == nil {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	f.t.Cleanup(func() {
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		unix.Close(fd)
	})
	return nil
}

func forkFake(dir *process.Dir, spec vmm.Spec, faults Faults, life time.Duration) (*process.Process, error) {
	orders := orders{Kernel: spec.Kernel, Initrd: spec.Initrd, Console: spec.Console, Disks: spec.Disks, Memory: spec.Memory, Faults: faults, Life: life, NIC: spec.NIC, Inside: spec.Inside != nil}
	env, err := json.Marshal(orders)
	if err != nil {
		return nil, err
	}
	socket, err := dir.Listen(fakeSocket)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	log, err := dir.Create(spec.Log, os.O_APPEND)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return dir.Start(process.Command{
		Program: self,
		Env:     []string{ordersEnv + "=" + string(env), "GORACE=atexit_sleep_ms=0"}, // the race detector would delay its end
		Output:  log, Inherit: []*os.File{socket, spec.Lock}, Inside: spec.Inside,
	})
}

// Ending implements vmm.Driver.
func (f *Fake) Ending(path string) vmm.Exit {
	if lines := process.LastLines(filepath.Join(path, fakeLog), 0); len(lines) > 0 {
		if reason, found := strings.CutPrefix(lines[len(lines)-1], fakeEnded); found {
			return vmm.Exit{Reason: vmm.Reason(reason)}
		}
	}
	return vmm.Exit{Reason: vmm.ReasonUnknown}
}

// Adopt implements vmm.Driver.
func (f *Fake) Adopt(ctx context.Context, path string) (vmm.Machine, error) {
	proc, dir, err := process.Adopt(path)
	if err != nil {
		return nil, err
	}
	m, err := attachFake(ctx, proc, dir, fakeLog)
	if err != nil {
		dir.Close()
		proc.Close()
		return nil, fmt.Errorf("adopt the fake VMM: %w", errors.Join(err, vmm.ErrGone))
	}
	return m, nil
}
