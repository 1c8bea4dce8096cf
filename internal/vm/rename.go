package vm

import (
	"context"
	"fmt"
	"os"

	"banger"
	"banger/internal/guest"
	"banger/internal/operation"
	"banger/internal/store"
)

// RenameVM implements banger.VMService. The VM's ID, and by it its host key and
// its directory, stay what they are.
func (v *VMs) RenameVM(ctx context.Context, ref string, opts banger.RenameVM, progress banger.Progress) (_ banger.VM, err error) {
	row, e, err := v.hold(ctx, ref)
	if err != nil {
		named(&err, "rename", ref)
		return banger.VM{}, err
	}
	defer e.release()
	op := v.begin("rename", row.ID, row.Name, progress)
	defer op.End(ctx, &err)
	if err := usable(row); err != nil {
		return banger.VM{}, err
	}
	if err := banger.CheckName(opts.Name); err != nil {
		return banger.VM{}, err
	}
	var steps operation.Undo
	defer steps.OnError(ctx, &err)
	err = op.Step(ctx, "take the name", func(ctx context.Context) error {
		steps.Push("take the name", func(ctx context.Context) error { return v.Store.Rename(ctx, row.ID, row.Name) })
		return v.Store.Rename(ctx, row.ID, opts.Name)
	})
	if err != nil {
		return banger.VM{}, err
	}
	err = op.Step(ctx, "know the host", func(context.Context) error {
		steps.Push("know the host", func(context.Context) error { return v.knowName(row) })
		renamed := row
		renamed.Name = opts.Name
		return v.knowName(renamed)
	})
	if err != nil {
		return banger.VM{}, err
	}
	vm, err := v.show(ctx, row.ID)
	if err != nil {
		return banger.VM{}, err
	}
	steps.Keep()
	if vm.State != banger.Stopped && opts.Name != row.Name {
		progress.Send(banger.Step{VM: vm.Name, Step: "know the host", Note: "its host name stays " + row.Name + " until it boots again"})
	}
	return vm, nil
}

// knowName puts a VM's name beside its host key in the known hosts.
func (v *VMs) knowName(row store.VM) error {
	private, err := os.ReadFile(v.Dirs.VM(row.ID).HostKey())
	if err != nil {
		return fmt.Errorf("read the host key: %w", err)
	}
	public, err := guest.PublicKey(private)
	if err != nil {
		return fmt.Errorf("read the host key: %w", err)
	}
	return v.knowHost(row.ID, row.Name, public)
}
