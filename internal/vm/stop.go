package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/operation"
	"banger/internal/store"
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
	row, e, err := v.hold(ctx, ref)
	if err != nil {
		named(&err, "stop", ref)
		return banger.VM{}, err
	}
	defer e.release()
	op := v.begin("stop", row.ID, row.Name, progress)
	defer op.End(ctx, &err)
	if err := v.stop(ctx, op, row, e, opts); err != nil {
		return banger.VM{}, err
	}
	return v.show(ctx, row.ID)
}

// RestartVM implements banger.VMService. A stopped VM is started.
func (v *VMs) RestartVM(ctx context.Context, ref string, opts banger.StopVM, progress banger.Progress) (_ banger.VM, err error) {
	row, e, err := v.hold(ctx, ref)
	if err != nil {
		named(&err, "restart", ref)
		return banger.VM{}, err
	}
	defer e.release()
	op := v.begin("restart", row.ID, row.Name, progress)
	defer op.End(ctx, &err)
	if err := usable(row); err != nil {
		return banger.VM{}, err
	}
	if err := v.stop(ctx, op, row, e, opts); err != nil {
		return banger.VM{}, err
	}
	if row, err = v.Store.VM(ctx, row.ID); err != nil {
		return banger.VM{}, err
	}
	if err := v.start(ctx, op, row, e, 0); err != nil {
		return banger.VM{}, v.explain(err, row, v.Dirs.VM(row.ID).Console())
	}
	return v.show(ctx, row.ID)
}

// stop brings a VM down: by the guest's own init within the grace time, then by
// the agent, and in the end by killing the VMM. The caller holds the VM. When
// ctx ends early, the guest goes on stopping by itself if it was asked.
func (v *VMs) stop(ctx context.Context, op *operation.Operation, row store.VM, e *entry, opts banger.StopVM) error {
	if err := v.stopStranger(ctx, op, row, e, opts.Force); err != nil {
		return err
	}
	// Also of a stopped VM: it may be between its guest's reboot and the start.
	unrecorded := v.Store.SetWanted(ctx, row.ID, banger.WantStopped)
	state, r := e.now()
	if r == nil {
		return unrecorded
	}
	// A host's disk that is full is no reason to let the VM fill it.
	if unrecorded != nil && ctx.Err() == nil {
		op.Note("stop", fmt.Sprintf("not on record: %v", unrecorded))
	}
	if opts.Grace == 0 {
		opts.Grace = defaultGrace
	}
	e.setState(banger.Stopping)
	var err error
	switch {
	case console.Read(v.Dirs.VM(row.ID).Console(), r.boot.Nonce).Halted() && !r.answers(ctx): // there is nobody to ask
		err = op.Step(ctx, "force off", func(ctx context.Context) error { return r.off(ctx) })
	case opts.Force:
		err = op.Step(ctx, "force off", func(ctx context.Context) error { return r.forceOff(ctx) })
	default:
		err = r.shutDown(ctx, op, opts.Grace)
	}
	if err != nil && !r.stops() {
		err = errors.Join(err, v.Store.SetWanted(context.WithoutCancel(ctx), row.ID, banger.WantRunning))
	}
	if err != nil {
		// It may still end; until then it is what it was.
		e.mu.Lock()
		if e.run == r {
			e.change(state, r)
		}
		e.mu.Unlock()
	}
	return err
}

func (r *run) shutDown(ctx context.Context, op *operation.Operation, grace time.Duration) error {
	end := time.NewTimer(grace + lastStage)
	defer end.Stop()
	err := op.Step(ctx, "ask the guest to stop", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		err := r.ask(ctx, wire.MethodStop, wire.StopParams{Verb: wire.Poweroff, GraceMS: grace.Milliseconds()})
		if err == nil {
			r.asked.Store(true)
		}
		return err
	})
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil && r.alive() {
		op.Log().Warn("the guest cannot be asked to stop", "err", err)
		return op.Step(ctx, "force off", func(ctx context.Context) error { return r.forceOff(ctx) })
	}
	return op.Step(ctx, "wait for the guest", func(ctx context.Context) error { return r.awaitStop(ctx, end.C) })
}

// awaitStop waits for a guest that was asked to stop, and ends one that takes too long.
func (r *run) awaitStop(ctx context.Context, tooLong <-chan time.Time) error {
	select {
	case <-r.over:
		return nil
	case <-tooLong:
		return r.forceOff(ctx)
	case <-ctx.Done():
		return fmt.Errorf("%w; the guest goes on stopping", ctx.Err())
	}
}

// stops says whether the guest was asked to stop, or is ended.
func (r *run) stops() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.killed || r.asked.Load()
}

func (r *run) alive() bool {
	select {
	case <-r.machine.Ended():
		return false
	default:
		return true
	}
}

func (r *run) ask(ctx context.Context, method string, params any) error {
	control, err := r.connected(ctx)
	if err != nil {
		return err
	}
	return control.Call(ctx, method, params, nil)
}

// forceOff kills the VMM. What the guest's programs wrote is put on the disks
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

// ended waits until the run's end is on record.
func (r *run) ended(ctx context.Context) error {
	select {
	case <-r.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
