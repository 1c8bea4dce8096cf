package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Name is the driver's name.
const Name = "firecracker"

// Places are where Firecracker may be besides in PATH.
type Places struct {
	Configured string // a path or a name; if set, no other place counts
	Bundled    string // a path, which may not exist
}

// Driver implements vmm.Driver.
type Driver struct {
	run    hostcmd.Runner
	places Places
	host   process.Host

	mu   sync.Mutex
	last program // the result of the last inspect
}

// New returns the driver. It runs Firecracker by run to find out its version.
func New(run hostcmd.Runner, places Places) *Driver {
	return &Driver{run: run, places: places, host: process.ThisHost()}
}

// Name implements vmm.Driver.
func (d *Driver) Name() string { return Name }

// maxVCPUs is Firecracker's own bound.
const maxVCPUs = 32

// bootTime is enough for hosts that are VMs themselves, where a boot takes many times as
// long. A guest that cannot boot usually fails sooner.
const bootTime = 3 * time.Minute

// Probe implements vmm.Driver. The quickest check comes first.
func (d *Driver) Probe(ctx context.Context) (vmm.Capabilities, error) {
	if err := d.host.CheckKVM(); err != nil {
		return vmm.Capabilities{}, err
	}
	if _, err := d.host.Account(""); err != nil {
		return vmm.Capabilities{}, err
	}
	program, err := d.inspect(ctx)
	if err != nil {
		return vmm.Capabilities{}, err
	}
	note, fix := d.host.FewFiles()
	return vmm.Capabilities{Version: program.version, Accelerator: "kvm", Note: note, Fix: fix, MaxVCPUs: maxVCPUs,
		DefaultVCPUs: min(2, runtime.NumCPU()), GrowOnline: true, Balloon: true, TellsBalloon: program.release.atLeast(tellsOfBalloon), BootTimeout: bootTime}, nil
}

// attachTime is how long a VMM that was found may take to answer. One that is stopped
// accepts the connection and does not answer.
var attachTime = 30 * time.Second

var errSilent = errors.New("it does not serve its API in time")

// Adopt implements vmm.Driver. If a VMM holds the lock but never received
// InstanceStart, Adopt kills it: nobody knows its configuration any more.
func (d *Driver) Adopt(ctx context.Context, path string) (vmm.Machine, error) {
	proc, dir, err := process.Adopt(path)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeoutCause(ctx, attachTime, errSilent)
	defer cancel()
	m, err := d.adopt(within, proc, dir)
	if err == nil {
		return m, nil
	}
	defer proc.Close()
	defer dir.Close()
	select {
	case <-proc.Done():
		return nil, vmm.ErrGone
	default:
		return nil, fmt.Errorf("adopt Firecracker, process %d: %w", proc.PID(), err)
	}
}

func (d *Driver) adopt(ctx context.Context, proc *process.Process, dir *process.Dir) (*machine, error) {
	api := newClient(func(ctx context.Context) (net.Conn, error) { return dialVMM(ctx, dir, apiSocket, proc) })
	var found instance
	err := reach(ctx, proc, dir)
	if err == nil {
		err = api.do(ctx, describe, nil, &found)
	}
	if err == nil && found.State == stateNotStarted {
		api.close()
		return nil, errors.Join(errors.New("its VM was never started"), proc.End())
	}
	if err != nil {
		api.close()
		return nil, err
	}
	knocks, err := listenAgain(dir)
	if err != nil {
		api.close()
		return nil, err
	}
	m := newMachine(proc, dir, api, knocks, config.VMMLogName(Name))
	m.adopted = true
	return m, nil
}

// reach waits until Firecracker, which creates the socket itself, serves its API.
func reach(ctx context.Context, proc *process.Process, dir *process.Dir) error {
	ctx, cancel := context.WithTimeoutCause(ctx, attachTime, errSilent)
	defer cancel()
	ctx, gone := context.WithCancelCause(ctx)
	defer gone(nil)
	go func() {
		select {
		case <-proc.Done():
			gone(process.ErrEnded)
		case <-ctx.Done():
		}
	}()
	conn, err := dir.Await(ctx, apiSocket)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return err
	}
	defer conn.Close()
	return checkPeer(conn, apiSocket, proc)
}
