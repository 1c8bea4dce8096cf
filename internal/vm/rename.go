package vm

import (
	"context"
	"fmt"
	"os"
	"time"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/operation"
	"banger/internal/store"
)

// RenameVM implements banger.VMService. The VM's ID, and with it its host key and
// its directory, stays the same.
func (v *VMs) RenameVM(ctx context.Context, ref string, opts banger.RenameVM, progress banger.Progress) (_ banger.VM, err error) {
	o, op, end, err := v.begin(ctx, banger.Rename, ref, progress)
	if err != nil {
		return banger.VM{}, err
	}
	defer func() { end(&err) }()
	if err := banger.CheckName(opts.Name); err != nil {
		return banger.VM{}, err
	}
	was := o.name()
	err = op.Step(ctx, "take the name", func(ctx context.Context) error {
		op.Push("take the name", func(ctx context.Context) error { return o.rename(ctx, was) })
		return o.rename(ctx, opts.Name)
	})
	if err != nil {
		return banger.VM{}, err
	}
	err = op.Step(ctx, "update known hosts", func(context.Context) error {
		op.Push("update known hosts", func(context.Context) error { return v.knowName(o.id, was) })
		return v.knowName(o.id, opts.Name)
	})
	if err == nil && opts.Name != was {
		err = op.Step(ctx, banger.StepTellGuest, func(ctx context.Context) error { return o.tellName(ctx, op, was) })
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return banger.VM{}, err
	}
	op.Keep()
	return o.show(), nil
}

// tellTime bounds how long a guest may take to change what it was told at boot.
const tellTime = 10 * time.Second

// tellName gives a running guest the VM's new host name. A guest that does not take it
// keeps the old one until it boots: what it does is no reason to refuse the rename.
func (o *owner) tellName(ctx context.Context, op *operation.Operation, was string) error {
	r := o.running()
	if r == nil {
		return nil
	}
	op.Push(banger.StepTellGuest, func(ctx context.Context) error {
		if err := r.tell(ctx, wire.ConfigureParams{Name: was}); err != nil {
			o.log().Warn("give the guest its old name back", "err", err)
		}
		return nil
	})
	err := r.tell(ctx, wire.ConfigureParams{Name: o.name()})
	if err != nil && ctx.Err() == nil && r.alive() {
		o.log().Info("the guest keeps its host name", "err", err)
		op.Progress(banger.StepTellGuest, "the host name inside stays "+was+" until the next boot")
	}
	return ctx.Err()
}

// tell changes what the running guest was told at boot.
func (r *run) tell(ctx context.Context, p wire.ConfigureParams) error {
	if err := r.paused(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	control, err := r.connected(ctx)
	if err != nil {
		return err
	}
	return control.Configure(ctx, p)
}

func (o *owner) rename(ctx context.Context, name string) error {
	err := o.save(func() error { return o.v.Store.Rename(ctx, o.id, name) }, func(row *store.VM) { row.Name = name; o.forward() })
	if err == nil {
		o.publishName()
	}
	return err
}

// knowName puts a VM's name beside its host key in the known hosts.
func (v *VMs) knowName(id banger.VMID, name string) error {
	private, err := os.ReadFile(v.Dirs.VM(id).HostKey())
	if err != nil {
		return fmt.Errorf("read the host key: %w", err)
	}
	public, err := guest.PublicKey(private)
	if err != nil {
		return fmt.Errorf("read the host key: %w", err)
	}
	return v.knowHost(id, name, public)
}
