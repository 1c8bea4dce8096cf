package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/operation"
	"banger/internal/vm/console"
)

const (
	// defaultGrace is how long a guest's init may take to stop its services. A
	// container that ignores SIGTERM costs Docker 10 s, a unit systemd 90 s.
	defaultGrace = 100 * time.Second
	// lastStage is how long the agent's own end may take after that.
	lastStage = 20 * time.Second
	// syncTime bounds the sync before a forced stop.
	syncTime = 10 * time.Second
)

// StopVM implements banger.VMService. A VM that is stopped already is left alone.
func (v *VMs) StopVM(ctx context.Context, ref string, opts banger.StopVM, progress banger.Progress) (_ banger.VM, err error) {
	o, op, end, err := v.begin(ctx, banger.Stop, ref, progress)
	if err != nil {
		return banger.VM{}, err
	}
	defer func() { end(&err) }()
	if err := o.stop(ctx, op, opts); err != nil {
		return banger.VM{}, err
	}
	return o.show(), nil
}

// RestartVM implements banger.VMService. A stopped VM is started. If the client goes away
// when the guest has been asked to stop, the VM is started all the same.
func (v *VMs) RestartVM(ctx context.Context, ref string, opts banger.StopVM, progress banger.Progress) (_ banger.VM, err error) {
	o, op, end, err := v.begin(ctx, banger.Restart, ref, progress)
	if err != nil {
		return banger.VM{}, err
	}
	defer func() { end(&err) }()
	if o.running() != nil {
		op.Push("stop", func(undo context.Context) error {
			if ctx.Err() == nil {
				return nil // not the client's end is why it failed
			}
			return o.comeBack(undo, op)
		})
	}
	if err := o.stop(ctx, op, opts); err != nil {
		return banger.VM{}, err
	}
	if err := o.start(ctx, op, 0); err != nil {
		return banger.VM{}, v.explain(err, o.dir().Console())
	}
	return o.show(), nil
}

// comeBack starts the VM of an operation that stops it for a moment and has failed. A stop
// that the guest has not heard of is none.
func (o *owner) comeBack(ctx context.Context, op *operation.Operation) error {
	switch r := o.running(); {
	case r != nil && !r.stops():
		return nil
	case r != nil: // it continues to shut down, though the client cancelled
		if err := r.awaitStop(ctx, op, time.Now().Add(defaultGrace+lastStage)); err != nil {
			return err
		}
	}
	return o.start(ctx, op, 0)
}

// stop brings the VM down: by the guest's own init within the grace time, then by
// the agent, and in the end by killing the VMM. The caller has the VM's turn. When
// ctx ends early, a guest that was asked continues to shut down by itself.
func (o *owner) stop(ctx context.Context, op *operation.Operation, opts banger.StopVM) error {
	if err := o.stopStranger(ctx, op, opts.Force); err != nil {
		return err
	}
	_, state, r := o.now()
	if r != nil && !opts.Force {
		if err := r.paused(); err != nil {
			return err
		}
	}
	// Also of a stopped VM: it may be between its guest's reboot and the start.
	unrecorded := o.move(ctx, banger.Stop)
	if r == nil {
		return unrecorded
	}
	if unrecorded != nil && ctx.Err() == nil { // a full disk is no reason to let the VM fill it
		op.Note("stop", fmt.Sprintf("not recorded: %v", unrecorded))
		o.happen(banger.Stop)
	}
	err := o.bringDown(ctx, op, r, opts)
	if err != nil && !r.stops() && state.Up() {
		err = errors.Join(err, o.keep(ctx, r))
	}
	return err
}

// keep undoes the begin of a stop that the guest has not heard of.
func (o *owner) keep(ctx context.Context, r *run) error {
	if _, state, now := o.now(); now != r || state != banger.Stopping {
		return nil
	}
	err := o.move(context.WithoutCancel(ctx), banger.Kept)
	r.change(func() { r.follow(r.hello.Init) }) // it may still be booting
	return err
}

func (o *owner) bringDown(ctx context.Context, op *operation.Operation, r *run, opts banger.StopVM) error {
	switch {
	case console.Read(o.dir().Console(), r.boot.Nonce).Halted() && !r.answers(ctx, haltTime): // it cannot hear
		return op.Step(ctx, "force off", r.off)
	case opts.Force:
		return op.Step(ctx, "force off", r.forceOff)
	}
	return r.shutDown(ctx, op, cmp.Or(opts.Grace, defaultGrace))
}

func (r *run) shutDown(ctx context.Context, op *operation.Operation, grace time.Duration) error {
	end := time.Now().Add(grace + lastStage)
	err := op.Step(ctx, "ask the guest to shut down", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		err := r.ask(ctx, wire.MethodStop, wire.StopParams{Verb: wire.Poweroff, GraceMS: grace.Milliseconds()})
		if err == nil {
			r.change(func() { r.asked = true })
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil && r.alive() {
		op.Note("force off", "the guest could not be asked to shut down, so its VMM is killed")
		return op.Step(ctx, "force off", r.forceOff)
	}
	return op.Step(ctx, "shutting down", func(ctx context.Context) error { return r.awaitStop(ctx, op, end) })
}

// awaitStop waits for a guest that was asked to stop, and kills one that is late.
func (r *run) awaitStop(ctx context.Context, op *operation.Operation, end time.Time) error {
	bounded, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	err := r.ended(bounded)
	if err == nil || ctx.Err() != nil {
		return err
	}
	op.Note("shutting down", "the guest did not shut down in time, so its VMM is killed")
	return r.forceOff(ctx)
}

// forceOff kills the VMM. What the guest's programs wrote is synced to the disks
// first, if the guest still answers.
func (r *run) forceOff(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, syncTime)
	defer cancel()
	unsynced := r.ask(bounded, wire.MethodSync, nil)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.off(ctx); err != nil {
		return errors.Join(err, unsynced)
	}
	return nil
}

// off kills the VMM, which may have ended just now.
func (r *run) off(ctx context.Context) error {
	if err := r.kill(); err != nil && r.alive() {
		return err
	}
	return r.ended(ctx)
}
