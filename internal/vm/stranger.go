package vm

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// A stranger is a VMM that has a VM's disks open and that this daemon could not
// adopt: it was stopped by a signal, or another program has its monitor. While it
// lives, the only thing to do with the VM is to end it.

func (o *owner) errStranger() error {
	return &banger.Error{Kind: banger.Conflict, Why: errors.New("a VMM that this daemon did not start has the disks open"),
		Fix: "banger daemon stop, then run the command again: the next daemon adopts it; or banger vm stop --force " + o.name()}
}

// noStranger returns an error if a VM that has no run has a VMM all the same.
func (o *owner) noStranger() error {
	if o.running() != nil {
		return nil
	}
	locked, err := vmm.Locked(o.dir().Lock())
	if err != nil || !locked {
		return err
	}
	return o.errStranger()
}

// stopStranger ends a stranger if force allows that, and else refuses.
func (o *owner) stopStranger(ctx context.Context, op *operation.Operation, force bool) error {
	err := o.noStranger()
	if err == nil || !force {
		return err
	}
	return op.Step(ctx, "force off", func(ctx context.Context) error { return o.signalStranger(ctx, unix.SIGKILL) })
}

// signalStranger sends a stranger a signal. If that may end it, it waits for the
// end and records it. It returns ErrGone when there is no stranger.
func (o *owner) signalStranger(ctx context.Context, sig unix.Signal) error {
	process, err := process.OpenHolder(o.dir().Lock())
	if err != nil {
		return err
	}
	defer process.Close()
	within := endsWithin(sig)
	if err := process.Signal(sig); err != nil || within == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case <-process.Done():
		o.releaseCard(ctx)
		return o.record(ctx, banger.EndedKilled, "the VMM ended after it was sent "+signalName(sig))
	case <-ctx.Done():
		if within == perhapsTime && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil
		}
		return fmt.Errorf("wait for the VMM's end: %w", ctx.Err())
	}
}

// deletionBegun reports whether the VM's deletion was begun, though a full disk
// kept that off the record: its directory has the name for it.
func (v *VMs) deletionBegun(row store.VM) bool {
	_, err := os.Lstat(string(v.Dirs.VM(row.ID)))
	if !errors.Is(err, os.ErrNotExist) {
		return false
	}
	_, err = os.Lstat(string(v.Dirs.GoneVM(row.ID)))
	return err == nil
}
