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

// DeleteVM implements banger.VMService. The VM's directory is first renamed to
// say that it is being deleted, so every deletion that was begun is finished: at
// once, or by the next daemon.
func (v *VMs) DeleteVM(ctx context.Context, ref string, opts banger.DeleteVM, progress banger.Progress) (err error) {
	verb := banger.Delete
	if opts.Force {
		verb = banger.ForceDelete
	}
	o, op, end, err := v.begin(ctx, verb, ref, progress)
	if err != nil {
		return err
	}
	defer func() { end(&err) }()
	if err := o.stopStranger(ctx, op, opts.Force); err != nil {
		return err
	}
	if r := o.running(); r != nil {
		if err := op.Step(ctx, "force off", func(ctx context.Context) error { return o.endForGood(ctx, r) }); err != nil {
			return err
		}
	}
	err = op.Step(ctx, "mark", o.mark)
	// On a full disk, which this makes room on, the directory's name is mark enough.
	if err != nil && !errors.Is(err, store.ErrFull) {
		return err
	}
	o.releaseCard(ctx)
	// From here on there is no way back, so a cancel is ignored.
	return op.Step(context.WithoutCancel(ctx), "remove disks", o.remove)
}

// endForGood kills a VM that is about to be deleted: nothing needs to be synced.
func (o *owner) endForGood(ctx context.Context, r *run) error {
	if err := o.move(ctx, banger.ForceDelete); errors.Is(err, store.ErrFull) {
		o.happen(banger.ForceDelete)
	} else if err != nil {
		return err
	}
	if err := r.kill(); err != nil {
		return err
	}
	return r.ended(ctx)
}

// mark records that the VM is being deleted.
func (o *owner) mark(ctx context.Context) error {
	err := o.save(func() error { return o.v.Store.SetPhase(ctx, o.id, store.Deleting) }, func(row *store.VM) { row.Phase = store.Deleting })
	if err == nil {
		o.happen(banger.Delete)
	}
	return err
}

// remove deletes what is left of the VM. It touches only what belongs to its ID.
func (o *owner) remove(ctx context.Context) error {
	v, dir, gone := o.v, o.dir(), o.v.Dirs.GoneVM(o.id)
	if err := o.awaitCheck(ctx); err != nil {
		return err
	}
	if locked, err := vmm.Locked(dir.Lock()); err != nil || locked {
		return errors.Join(err, o.errStranger())
	}
	o.happen(banger.Delete)
	if err := os.Rename(string(dir), string(gone)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := durable.Sync(v.Dirs.VMs()); err != nil { // it may be the only mark
		return err
	}
	err := errors.Join(os.RemoveAll(string(gone)), os.RemoveAll(string(v.Dirs.NewVM(o.id))), v.forgetHost(o.id))
	if err != nil {
		return err
	}
	// Without a row, files that a power cut brings back would stay for ever.
	if err := durable.Sync(v.Dirs.VMs()); err != nil {
		return err
	}
	if err := v.Store.DeleteVM(ctx, o.id); err != nil {
		return err
	}
	o.withdrawName()
	v.forget(o)
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
