package vm

import (
	"context"
	"errors"
	"fmt"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/guest/wire"
	"banger/internal/store"
	"banger/internal/vmm"
)

// Helper is what distinguishes a VM that the daemon makes for its own work. It is not on
// record: such a VM has a lease of the daemon's, and never lives under another daemon.
type Helper struct {
	// Copy is a stopped VM, whose image, kernel and disks the helper gets. In a copy only
	// the agent runs: its files are as the VM left them. Empty: it is a new VM.
	Copy string
	Home bool // copy the work disk as well
}

// CreateHelper is CreateVM for a VM of the daemon's own. Its image gets no user.
func (v *VMs) CreateHelper(ctx context.Context, spec banger.CreateVM, how Helper, progress banger.Progress) (banger.VM, error) {
	if how.Copy == "" {
		return v.create(ctx, spec, &helper{}, progress)
	}
	source, err := v.find(how.Copy)
	if err != nil {
		return banger.VM{}, err
	}
	row, state, _ := source.now()
	if state != banger.Stopped {
		return banger.VM{}, banger.Refuse(banger.Copy, row.Name, state)
	}
	spec.Image, spec.Overlay, spec.Driver, spec.Network = string(row.ImageID), row.Overlay, row.Driver, noNetwork
	if how.Home {
		spec.Disk = row.Disk
	}
	return v.create(ctx, spec, &helper{source: source, home: how.Home}, progress)
}

// helper is how a VM of the daemon's own is made, and what it is told.
type helper struct {
	source *owner // nil: it is a new VM
	home   bool
}

// configure changes what the guest of a helper is told.
func (h *helper) configure(c *wire.Config) {
	c.User = ""
	c.NoInit = h.source != nil
}

// pin gives the helper the kernel of the VM whose disks it gets.
func (h *helper) pin(row *store.VM) {
	if h.source != nil {
		source, _, _ := h.source.now()
		row.Kernel, row.KernelID = source.Kernel, source.KernelID
	}
}

// makeDisks copies the disks of the source into dir. Nobody can start it meanwhile.
func (h *helper) makeDisks(ctx context.Context, v *VMs, dir config.VMDir, row store.VM) error {
	if err := h.source.take(ctx); err != nil {
		return err
	}
	defer h.source.release()
	if source, state, _ := h.source.now(); state != banger.Stopped {
		return banger.Refuse(banger.Copy, source.Name, state)
	}
	lock, err := vmm.Lock(h.source.dir().Lock())
	if errors.Is(err, vmm.ErrLocked) {
		return h.source.errStranger()
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if h.source.suspected() {
		return &banger.Error{Kind: banger.Conflict, Why: errors.New("a disk had errors while the VM ran"), Fix: "banger vm fsck " + h.source.name()}
	}
	if err := disk.Copy(ctx, v.Run, h.source.dir().Overlay(), dir.Overlay()); err != nil {
		return fmt.Errorf("copy the overlay: %w", err)
	}
	if h.home {
		if err := disk.Copy(ctx, v.Run, h.source.dir().Work(), dir.Work()); err != nil {
			return fmt.Errorf("copy the work disk: %w", err)
		}
		return nil
	}
	return disk.Create(ctx, v.Run, dir.Work(), row.Disk, wire.LabelWork)
}

// Key returns the private key with which the daemon logs in to a running VM as root. The
// user's own may have a passphrase.
func (v *VMs) Key(ref string) ([]byte, error) {
	o, err := v.find(ref)
	if err != nil {
		return nil, err
	}
	row, state, r := o.now()
	if r == nil || !state.Up() {
		return nil, banger.Refuse(banger.Reach, row.Name, state)
	}
	if r.boot.Key == "" {
		return nil, &banger.Error{Kind: banger.Conflict, Why: errors.New("an older daemon has started the VM"), Fix: "banger vm restart " + row.Name}
	}
	return []byte(r.boot.Key), nil
}
