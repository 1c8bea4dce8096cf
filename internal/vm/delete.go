package vm

import (
	"context"
	"errors"
	"os"

	"banger"
	"banger/internal/durable"
	"banger/internal/guest"
	"banger/internal/store"
	"banger/internal/vmm"
)

// DeleteVM implements banger.VMService. The VM's directory first gets a name
// that says so, hence a deletion that was begun is always ended: at once, or by
// the next daemon.
func (v *VMs) DeleteVM(ctx context.Context, ref string, opts banger.DeleteVM, progress banger.Progress) (err error) {
	row, e, err := v.hold(ctx, ref)
	if err != nil {
		named(&err, "delete", ref)
		return err
	}
	defer e.release()
	op := v.begin("delete", row.ID, row.Name, progress)
	defer op.End(ctx, &err)
	if err := v.stopStranger(ctx, op, row, e, opts.Force); err != nil {
		return err
	}
	if _, r := e.now(); r != nil {
		if !opts.Force {
			return &banger.Error{Kind: banger.Conflict, Why: errors.New("it is running"),
				Fix: "banger vm stop " + row.Name + ", or banger vm delete --force " + row.Name}
		}
		if err := op.Step(ctx, "force off", func(ctx context.Context) error { return v.endForGood(ctx, row, r) }); err != nil {
			return err
		}
	}
	e.setState(banger.Deleting)
	err = op.Step(ctx, "mark", func(ctx context.Context) error { return v.Store.SetPhase(ctx, row.ID, store.Deleting) })
	// On a full disk, which this makes room on, the directory's name has to do.
	if err != nil && !errors.Is(err, store.ErrFull) {
		e.setState(banger.Stopped)
		return err
	}
	// From here on there is no way back, whoever cancels.
	return op.Step(context.WithoutCancel(ctx), "remove disks", func(ctx context.Context) error { return v.remove(ctx, row) })
}

// endForGood kills a VM that is going to be deleted: nothing need be synced.
func (v *VMs) endForGood(ctx context.Context, row store.VM, r *run) error {
	if err := v.Store.SetWanted(ctx, row.ID, banger.WantStopped); err != nil && !errors.Is(err, store.ErrFull) {
		return err
	}
	if err := r.kill(); err != nil {
		return err
	}
	return r.ended(ctx)
}

// remove ends a deletion, from wherever an earlier try came to. It touches
// only what belongs to the row's ID.
func (v *VMs) remove(ctx context.Context, row store.VM) error {
	dir, gone := v.Dirs.VM(row.ID), v.Dirs.GoneVM(row.ID)
	if locked, err := vmm.Locked(dir.Lock()); err != nil || locked {
		return errors.Join(err, errStranger(row))
	}
	if err := os.Rename(string(dir), string(gone)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := durable.Sync(v.Dirs.VMs()); err != nil { // it may be the only mark
		return err
	}
	err := errors.Join(os.RemoveAll(string(gone)), os.RemoveAll(string(v.Dirs.NewVM(row.ID))), v.forgetHost(row.ID))
	if err != nil {
		return err
	}
	// Without a row, nobody would look for files that a power cut brings back.
	if err := durable.Sync(v.Dirs.VMs()); err != nil {
		return err
	}
	if err := v.Store.DeleteVM(ctx, row.ID); err != nil {
		return err
	}
	v.forget(row.ID)
	return nil
}

func (v *VMs) knowHost(id banger.VMID, name, public string) error {
	v.hostsFile.Lock()
	defer v.hostsFile.Unlock()
	return guest.AddKnownHost(v.knownHosts, id, name, public)
}

func (v *VMs) forgetHost(id banger.VMID) error {
	v.hostsFile.Lock()
	defer v.hostsFile.Unlock()
	return guest.RemoveKnownHost(v.knownHosts, id)
}
