package vm

import (
	"context"
	"fmt"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/operation"
)

// WaitVM implements banger.VMService. It takes no turn: it waits for what others
// do, and for what happens.
func (v *VMs) WaitVM(ctx context.Context, ref string, opts banger.WaitVM, progress banger.Progress) (_ banger.VM, err error) {
	o, err := v.find(ref)
	if err != nil {
		return banger.VM{}, operation.Name(err, "vm", "wait for", ref)
	}
	reached, known := milestones[opts.For]
	if !known {
		return banger.VM{}, banger.Invalidf("use agent, boot or stopped", "there is no milestone %q to wait for", opts.For)
	}
	if err := o.await(ctx, func() (bool, error) { _, err := reached(o); return true, err }); err != nil {
		return banger.VM{}, err // it never will, as things are
	}
	op := v.Operations.Begin("vm", "wait for", o.name(), o.id, progress)
	defer op.End(ctx, &err)
	if opts.Timeout > 0 {
		timed, cancel := context.WithTimeoutCause(ctx, opts.Timeout, &banger.Error{Kind: banger.TimedOut,
			Why: fmt.Errorf("%q was not reached within %v", opts.For, opts.Timeout), Fix: "banger vm logs " + o.name()})
		defer cancel()
		ctx = timed
	}
	err = op.Step(ctx, waiting[opts.For], func(ctx context.Context) error {
		return o.await(ctx, func() (bool, error) { return reached(o) })
	})
	if err != nil {
		return banger.VM{}, err
	}
	return o.show(), nil
}

// waiting is the name of the step that waits for a milestone.
var waiting = map[banger.Milestone]string{
	banger.AgentUp: "waiting for the agent", banger.BootUp: "starting services", banger.Off: "waiting for the stop",
}

// milestones report whether a VM has reached them, and return an error when it
// cannot any more. The caller holds the owner's mu.
var milestones = map[banger.Milestone]func(*owner) (bool, error){
	banger.AgentUp: func(o *owner) (bool, error) {
		if o.run == nil {
			return false, o.staysDown()
		}
		return o.run.control != nil, nil
	},
	banger.BootUp: func(o *owner) (bool, error) {
		switch r := o.run; {
		case r == nil:
			return false, o.staysDown()
		case r.control == nil:
			return false, nil
		case r.hello.Init == wire.InitEmergency:
			return false, &banger.Error{Why: fmt.Errorf("%s", r.emergency()), Fix: "banger vm ssh " + o.row.Name}
		default:
			return r.hello.Init == wire.InitUp || r.hello.Init == wire.InitNone, nil
		}
	},
	banger.Off: func(o *owner) (bool, error) {
		if o.state == banger.Gone {
			return false, o.errGone()
		}
		return o.state == banger.Stopped && o.row.Wanted == banger.WantStopped, nil
	},
}

// staysDown returns an error if the VM, which has no VMM, will not get one by
// itself: it does while a start is at work, and after its guest's reboot.
func (o *owner) staysDown() error {
	switch {
	case o.state == banger.Gone:
		return o.errGone()
	case o.state == banger.Stopped && o.row.Wanted != banger.WantRunning, o.state == banger.Deleting:
		return banger.Refuse("wait for", o.row.Name, o.state)
	}
	return nil
}

func (o *owner) errGone() error {
	return &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("the VM has been deleted"), Fix: "banger vm list"}
}
