package vm

import (
	"context"
	"errors"
	"fmt"

	"banger"
	"banger/internal/guest/wire"
)

// WaitVM implements banger.VMService. It waits on what happens, and takes no
// part in it: it does not hold the VM.
func (v *VMs) WaitVM(ctx context.Context, ref string, opts banger.WaitVM, progress banger.Progress) (_ banger.VM, err error) {
	row, err := v.Store.FindVM(ctx, ref)
	if err != nil {
		return banger.VM{}, err
	}
	op := v.begin("wait for", row.ID, row.Name, progress)
	defer op.End(ctx, &err)
	if opts.Timeout > 0 {
		timed, cancel := context.WithTimeoutCause(ctx, opts.Timeout, &banger.Error{Kind: banger.TimedOut,
			Why: fmt.Errorf("%q was not reached within %v", opts.For, opts.Timeout), Fix: "banger vm logs " + row.Name})
		defer cancel()
		ctx = timed
	}
	reached, known := milestones[opts.For]
	if !known {
		return banger.VM{}, banger.Invalidf("use agent, boot or stopped", "%q is nothing to wait for", opts.For)
	}
	err = op.Step(ctx, "wait for "+string(opts.For), func(ctx context.Context) error {
		for {
			next, err := reached(v, ctx, row.ID)
			if next == nil || err != nil {
				return err
			}
			select {
			case <-next:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
	if err != nil {
		return banger.VM{}, err
	}
	return v.show(ctx, row.ID)
}

// milestones look whether a VM is there yet. If not they return a channel that
// is closed when looking again makes sense, and an error if that is never.
var milestones = map[banger.Milestone]func(*VMs, context.Context, banger.VMID) (<-chan struct{}, error){
	banger.AgentUp: func(v *VMs, ctx context.Context, id banger.VMID) (<-chan struct{}, error) {
		return v.heardFrom(ctx, id, func(wire.Init) bool { return true })
	},
	banger.BootUp: func(v *VMs, ctx context.Context, id banger.VMID) (<-chan struct{}, error) {
		return v.heardFrom(ctx, id, func(init wire.Init) bool { return init == wire.InitUp || init == wire.InitNone })
	},
	banger.Off: (*VMs).off,
}

// heardFrom is reached when the agent is connected and tells of an init in the
// state that is wanted.
func (v *VMs) heardFrom(ctx context.Context, id banger.VMID, wanted func(wire.Init) bool) (<-chan struct{}, error) {
	e := v.entry(id)
	e.mu.Lock()
	r, changed := e.run, e.changed
	e.mu.Unlock()
	if r == nil {
		return v.comesBack(ctx, id, changed)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.control != nil && wanted(r.hello.Init) {
		return nil, nil
	}
	return either(ctx, changed, r.changed), nil
}

// either is closed when one of two channels is, or ctx ends.
func either(ctx context.Context, a, b <-chan struct{}) <-chan struct{} {
	both := make(chan struct{})
	go func() {
		defer close(both)
		select {
		case <-a:
		case <-b:
		case <-ctx.Done():
		}
	}()
	return both
}

// comesBack is for a VM without a VMM: it is worth waiting for only while a
// start is under way or its guest's reboot is about to be.
func (v *VMs) comesBack(ctx context.Context, id banger.VMID, changed <-chan struct{}) (<-chan struct{}, error) {
	row, err := v.Store.VM(ctx, id)
	if err != nil {
		return nil, err
	}
	if state, _ := v.entry(id).now(); state == banger.Stopped && row.Wanted != banger.WantRunning {
		return nil, &banger.Error{Kind: banger.Conflict, Why: errors.New("it is not running"), Fix: "banger vm start " + row.Name}
	}
	return changed, nil
}

func (v *VMs) off(ctx context.Context, id banger.VMID) (<-chan struct{}, error) {
	e := v.entry(id)
	e.mu.Lock()
	state, changed := e.state, e.changed
	e.mu.Unlock()
	row, err := v.Store.VM(ctx, id)
	if err != nil {
		return nil, err
	}
	if state == banger.Stopped && row.Wanted == banger.WantStopped {
		return nil, nil
	}
	return changed, nil
}
