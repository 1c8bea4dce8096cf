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
)

// A stranger is a VMM that has a VM's disks open and that this daemon could not
// adopt: it stood still, or somebody else had its monitor. Nothing is done to the
// VM while it lives, but what ends it.

func errStranger(row store.VM) error {
	return &banger.Error{Kind: banger.Conflict, Why: errors.New("a VMM that this daemon did not start has the disks open"),
		Fix: "banger daemon stop, then the command again: the next daemon adopts it; or banger vm stop --force " + row.Name}
}

// noStranger is nil where nobody has the disks of a VM open that does not run here.
func (v *VMs) noStranger(row store.VM, e *entry) error {
	if e.current() != nil {
		return nil
	}
	locked, err := vmm.Locked(v.Dirs.VM(row.ID).Lock())
	if err != nil || !locked {
		return err
	}
	return errStranger(row)
}

// stopStranger ends a stranger if it may, and complains of it if not.
func (v *VMs) stopStranger(ctx context.Context, op *operation.Operation, row store.VM, e *entry, force bool) error {
	err := v.noStranger(row, e)
	if err == nil || !force {
		return err
	}
	return op.Step(ctx, "force off", func(ctx context.Context) error { return v.signalStranger(ctx, row, unix.SIGKILL) })
}

// killStranger is KillVM of a VM that does not run here. A start that is on its way
// has the lock, too, and is left alone.
func (v *VMs) killStranger(ctx context.Context, row store.VM, e *entry, sig unix.Signal) error {
	if state, _ := e.now(); state != banger.Stopped || v.noStranger(row, e) == nil {
		return &banger.Error{Kind: banger.Conflict, Why: errors.New("it is not running"), Fix: "banger vm start " + row.Name}
	}
	return v.signalStranger(ctx, row, sig)
}

// signalStranger sends a stranger a signal, waits for its end if that may end it,
// and puts that on record. ErrGone says that there is none.
func (v *VMs) signalStranger(ctx context.Context, row store.VM, sig unix.Signal) error {
	process, err := vmm.OpenHolder(v.Dirs.VM(row.ID).Lock())
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
		return v.record(ctx, row.ID, banger.EndedKilled, "the VMM ended after it was sent "+signalName(sig))
	case <-ctx.Done():
		if within == perhapsTime && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil
		}
		return fmt.Errorf("wait for the VMM's end: %w", ctx.Err())
	}
}

// deletionBegun says whether a VM's deletion was begun, though a full disk kept
// that off the record: its directory has the name for it.
func (v *VMs) deletionBegun(row store.VM) bool {
	_, err := os.Lstat(string(v.Dirs.VM(row.ID)))
	if !errors.Is(err, os.ErrNotExist) {
		return false
	}
	_, err = os.Lstat(string(v.Dirs.GoneVM(row.ID)))
	return err == nil
}
