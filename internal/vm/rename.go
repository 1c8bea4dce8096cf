package vm

import (
	"context"
	"fmt"
	"os"

	"banger"
	"banger/internal/guest"
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
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return banger.VM{}, err
	}
	op.Keep()
	if o.running() != nil && opts.Name != was {
		op.Progress("update known hosts", "the host name inside stays "+was+" until the next boot")
	}
	return o.show(), nil
}

func (o *owner) rename(ctx context.Context, name string) error {
	err := o.save(func() error { return o.v.Store.Rename(ctx, o.id, name) }, func(row *store.VM) { row.Name = name })
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
