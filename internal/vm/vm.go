// Package vm is the lifecycle of VMs: create, start, stop, restart, delete,
// and what happens to a VM by itself. It owns the order of the steps and their
// undo; the packages below it know how each step is done.
package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/event"
	"banger/internal/guest"
	"banger/internal/hostcmd"
	"banger/internal/network/forward"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// Env is what the VMs live on.
type Env struct {
	Dirs       config.Dirs
	Config     config.Config
	Store      *store.Store
	Drivers    vmm.Drivers
	Bundle     *bundle.Bundle   // what brings the parts that are not installed yet; may be nil
	Installed  bundle.Installed // what a new VM gets; parts of it may be missing
	Missing    error            // why they are, if that is known
	Run        hostcmd.Runner
	Operations *operation.Runner // runs the verbs
	Events     *event.Hub        // hears of every change of a VM
	Network    Network
	Log        *slog.Logger
	Program    string // "bangerd 0.1.0", which the guests are told

	// Pull returns an image by its name in a registry, and pulls it when it is missing;
	// nil: none is pulled.
	Pull func(ctx context.Context, ref string, progress banger.Progress) (banger.Image, error)

	// Isolate gives a VMM a control group of its own; nil: none is given.
	Isolate func(ctx context.Context, id string, pid int) error
}

// VMs implements banger.VMService.
type VMs struct {
	Env
	authorized string // the user's public key
	knownHosts string
	sshKey     string

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	logs       *console.Logs
	boots      chan struct{} // holds a token for each VM that boots
	installing chan struct{} // holds a token while the bundle brings a part

	mu     sync.Mutex
	owners map[banger.VMID]*owner
	closed bool

	hostsFile sync.Mutex // of known hosts

	forwards *forward.Forwards
}

var _ banger.VMService = (*VMs)(nil)

// Open reads the record of every VM, repairs what an earlier daemon left
// unfinished, adopts what runs, and writes what it did to the log.
func Open(ctx context.Context, host Env) (*VMs, error) {
	v := &VMs{Env: host, owners: map[banger.VMID]*owner{}, knownHosts: host.Dirs.KnownHosts(), sshKey: cmp.Or(host.Config.SSHKeyPath, host.Dirs.SSHKey()),
		boots: make(chan struct{}, max(2, runtime.NumCPU())), installing: make(chan struct{}, 1)}
	v.ctx, v.cancel = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if v.authorized, err = guest.UserKey(v.sshKey); err != nil {
		return nil, fmt.Errorf("prepare the SSH key: %w", err)
	}
	if err := durable.MkdirAll(host.Dirs.VMs(), 0o700); err != nil {
		return nil, err
	}
	v.forwards = v.newForwards()
	v.logs = console.NewLogs()
	v.task(func(ctx context.Context) {
		v.logs.Run(ctx, func(err error) { v.Log.Error("limit the logs of VMs", "err", err) })
	})
	if err := v.reconcile(ctx); err != nil {
		v.Close()
		return nil, err
	}
	v.Events.Add(v.snapshot)
	v.task(v.watchClock)
	watch := v.Network.Watch
	v.task(func(ctx context.Context) { watch(ctx, v.tellAll) })
	return v, nil
}

// Close releases all VMs. Those that run keep running.
func (v *VMs) Close() {
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.cancel()
	v.tasks.Wait()
	v.forwards.Close()
}

// task runs f in the background until Close, which waits for it. After Close, f
// runs at once, on a context that has ended, so that it can release what it has.
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

// all returns the owners of all VMs, by the VMs' names.
func (v *VMs) all() []*owner {
	v.mu.Lock()
	all := make([]*owner, 0, len(v.owners))
	for _, o := range v.owners {
		all = append(all, o)
	}
	v.mu.Unlock()
	names := make(map[*owner]string, len(all))
	for _, o := range all {
		names[o] = o.name()
	}
	slices.SortFunc(all, func(a, b *owner) int { return strings.Compare(names[a], names[b]) })
	return all
}

// minPrefix is the shortest prefix of an ID that names a VM.
const minPrefix = 3

// find returns the owner of the VM that ref names: by its name, its ID, or a
// prefix of its ID that no other VM shares. A shared prefix is a Conflict. What could be a
// name is no prefix: it would lead to another VM once the one with the name is gone.
func (v *VMs) find(ref string) (*owner, error) {
	var found []*owner
	all := v.all()
	short := len(ref) >= minPrefix && banger.CheckName(ref) != nil
	for _, o := range all {
		if o.name() == ref {
			return o, nil
		}
	}
	for _, o := range all {
		if string(o.id) == ref {
			return o, nil
		}
		if short && strings.HasPrefix(string(o.id), ref) {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &banger.Error{Kind: banger.NotFound, What: fmt.Sprintf("there is no VM %.64q", ref), Fix: "banger vm list"}
	}
	return nil, &banger.Error{Kind: banger.Conflict, Fix: "use the VM's name",
		What: fmt.Sprintf("%q is ambiguous: the IDs of %s and %s begin with it", ref, found[0].name(), found[1].name())}
}

// forget drops a VM that no longer exists.
func (v *VMs) forget(o *owner) {
	v.mu.Lock()
	delete(v.owners, o.id)
	v.mu.Unlock()
	o.happen(banger.Deleted)
	v.logs.Forget(string(o.dir()))
}

func (o *owner) dir() config.VMDir { return o.v.Dirs.VM(o.id) }

func (o *owner) log() *slog.Logger { return o.v.Log.With("vm", o.name(), "id", o.id) }

func errStopping() error {
	return &banger.Error{Kind: banger.Canceled, Why: errors.New("the daemon is stopping"), Fix: "run the command again"}
}

func printable(s string) string { return guest.Printable(s) }
