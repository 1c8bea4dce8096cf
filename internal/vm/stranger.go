package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/linux"
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

// noStranger returns an error if a VM that has no run has a VMM all the same. It waits,
// within ctx, for a check of the disks that an earlier daemon has begun.
func (o *owner) noStranger(ctx context.Context) error {
	if o.running() != nil {
		return nil
	}
	if err := o.awaitCheck(ctx); err != nil {
		return err
	}
	locked, err := vmm.Locked(o.dir().Lock())
	if err != nil || !locked {
		return err
	}
	return o.errStranger()
}

// awaitCheck waits for the end of a check that isChecked reports.
func (o *owner) awaitCheck(ctx context.Context) error {
	if !o.isChecked() {
		return nil
	}
	o.log().Info("wait for the check of the disks that an earlier daemon has begun")
	return linux.AwaitFree(ctx, o.dir().Lock())
}

// hasStranger reports whether a VM that has stopped has a VMM all the same.
func (o *owner) hasStranger() bool {
	locked, err := vmm.Locked(o.dir().Lock())
	return (err != nil || locked) && !o.isChecked()
}

// isChecked reports whether a check or a copy of the disks holds the lock. It keeps the
// lock when its daemon is killed: two that write to a disk would destroy it.
func (o *owner) isChecked() bool {
	pid, err := vmm.Holder(o.dir().Lock())
	if err != nil {
		return false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && slices.Contains([]string{"e2fsck", "cp"}, strings.TrimSpace(string(name)))
}

// locking runs commands that share the VM's lock.
type locking struct {
	hostcmd.Runner
	lock *os.File
}

func (l locking) Run(ctx context.Context, c hostcmd.Cmd) ([]byte, error) {
	c.Inherit = append(slices.Clone(c.Inherit), l.lock)
	return l.Runner.Run(ctx, c)
}

// stopStranger ends a stranger if force allows that, and else refuses.
func (o *owner) stopStranger(ctx context.Context, op *operation.Operation, force bool) error {
	err := o.noStranger(ctx)
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
