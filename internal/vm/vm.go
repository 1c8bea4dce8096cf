// Package vm is the lifecycle of VMs: create, start, stop, restart, delete,
// and what happens to a VM by itself. It owns the order of things and what
// undoes them; the parts below it know how each thing is done.
package vm

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/event"
	"banger/internal/guest"
	"banger/internal/hostcmd"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// Host is what the VMs live on.
type Host struct {
	Dirs      config.Dirs
	Config    config.Config
	Store     *store.Store
	Drivers   vmm.Drivers
	Bundle    *bundle.Bundle   // what brings the parts that are not there yet; may be nil
	Installed bundle.Installed // what a new VM gets; parts of it may be missing
	Missing   error            // why they are, if that is known
	Run       hostcmd.Runner
	Log       *slog.Logger
	Program   string // "bangerd 0.1.0", for the guest's ears

	// Isolate gives a VMM a control group of its own; nil: none is given.
	Isolate func(ctx context.Context, id banger.VMID, pid int) error

	// Operations runs the verbs.
	Operations *operation.Host
	// Events hears of every change of a VM.
	Events *event.Hub
}

// VMs implements banger.VMService.
type VMs struct {
	Host
	authorized string // the user's public key
	knownHosts string
	sshKey     string

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	logs  *console.Logs
	boots chan struct{} // holds a token for each VM that boots

	installing chan struct{} // holds a token while the bundle brings a part

	mu      sync.Mutex
	entries map[banger.VMID]*entry
	closed  bool

	hostsFile sync.Mutex // of known hosts
}

var _ banger.VMService = (*VMs)(nil)

// entry is what the daemon holds in memory about one VM: nothing that could
// not be found out again.
type entry struct {
	busy chan struct{} // holds a token while an operation is at work

	mu      sync.Mutex
	state   banger.State
	run     *run          // nil when the VM is stopped
	changed chan struct{} // replaced, and closed, at each change of either
}

// Open looks at every VM, repairs what an earlier daemon left unfinished,
// adopts what runs, and reports what it did to the log.
func Open(ctx context.Context, host Host) (*VMs, error) {
	v := &VMs{Host: host, entries: map[banger.VMID]*entry{}, knownHosts: host.Dirs.KnownHosts(), sshKey: host.Dirs.SSHKey(),
		boots: make(chan struct{}, max(2, runtime.NumCPU())), installing: make(chan struct{}, 1)}
	if host.Config.SSHKeyPath != "" {
		v.sshKey = host.Config.SSHKeyPath
	}
	v.ctx, v.cancel = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if v.authorized, err = guest.UserKey(v.sshKey); err != nil {
		return nil, fmt.Errorf("prepare the SSH key: %w", err)
	}
	if err := durable.MkdirAll(host.Dirs.VMs(), 0o700); err != nil {
		return nil, err
	}
	if v.logs, err = console.NewLogs(); err != nil {
		return nil, fmt.Errorf("watch the logs of VMs: %w", err)
	}
	v.task(func(ctx context.Context) {
		v.logs.Run(ctx, func(err error) { v.Log.Error("bound the logs of VMs", "err", err) })
	})
	if err := v.reconcile(ctx); err != nil {
		v.Close()
		return nil, err
	}
	v.task(v.watchClock)
	return v, nil
}

// Close lets go of all VMs. Those that run keep running.
func (v *VMs) Close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.cancel()
	v.tasks.Wait()
}

// task runs f in the background until Close, which waits for it. After Close
// f runs at once, on a context that has ended: what it owes others is done.
func (v *VMs) task(f func(context.Context)) {
	v.mu.Lock()
	closed := v.closed
	if !closed {
		v.tasks.Go(func() { f(v.ctx) })
	}
	v.mu.Unlock()
	if closed {
		f(v.ctx)
	}
}

func (v *VMs) entry(id banger.VMID) *entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	e, ok := v.entries[id]
	if !ok {
		e = &entry{busy: make(chan struct{}, 1), state: banger.Stopped, changed: make(chan struct{})}
		v.entries[id] = e
	}
	return e
}

// forget drops a VM that no longer exists. Who waits for it looks again.
func (v *VMs) forget(id banger.VMID) {
	v.mu.Lock()
	e := v.entries[id]
	delete(v.entries, id)
	v.mu.Unlock()
	if e != nil {
		e.set(banger.Stopped, nil)
	}
	v.logs.Forget(string(v.Dirs.VM(id)))
}

// take waits until no other operation is at work on the VM.
func (e *entry) take(ctx context.Context) error {
	select {
	case e.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *entry) release() { <-e.busy }

func (e *entry) current() *run {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.run
}

func (e *entry) set(state banger.State, r *run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.change(state, r)
}

// change tells whoever waits. The caller holds mu.
func (e *entry) change(state banger.State, r *run) {
	e.state, e.run = state, r
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *entry) setState(state banger.State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.change(state, e.run)
}

func (e *entry) now() (banger.State, *run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state, e.run
}

// hold finds a VM and waits for its turn. The row is read again once the VM is
// held, since the operation before may have changed or deleted it.
func (v *VMs) hold(ctx context.Context, ref string) (store.VM, *entry, error) {
	row, err := v.Store.FindVM(ctx, ref)
	if err != nil {
		return store.VM{}, nil, err
	}
	e := v.entry(row.ID)
	if err := e.take(ctx); err != nil {
		return store.VM{}, nil, err
	}
	if row, err = v.Store.VM(ctx, row.ID); err != nil {
		e.release()
		return store.VM{}, nil, err
	}
	return row, e, nil
}

// named puts an operation's name before its error.
func named(err *error, verb, name string) {
	*err = operation.Name(*err, "vm", banger.Verb(verb), name)
}

// begin begins an operation on a VM.
func (v *VMs) begin(verb string, id banger.VMID, name string, progress banger.Progress) *operation.Operation {
	return v.Operations.Begin("vm", banger.Verb(verb), name, id, progress)
}
