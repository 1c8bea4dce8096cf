package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"banger"
)

// Phase is how far a VM's life has come: what a daemon that starts must finish
// or clear away.
type Phase string

// The phases of a VM.
const (
	Creating Phase = "creating"
	Ready    Phase = "ready"
	Deleting Phase = "deleting"
)

// VM is what is stored of a VM: its identity, its settings, what is wanted of
// it, and how its last run ended.
type VM struct {
	ID        banger.VMID
	Name      string
	Image     string
	ImageID   banger.Digest
	Kernel    string
	KernelID  banger.Digest
	VCPUs     int
	Memory    banger.Size
	Overlay   banger.Size
	Disk      banger.Size
	Driver    string
	Network   string      // "auto" or "none"
	Slot      int         // the place in the subnet: InsertVM chooses it, and it stays
	NAT       bool        // may reach what is outside the bridge
	Isolated  bool        // may not reach other VMs
	Published string      // ports that the host publishes, as --port takes them, with spaces between
	Received  banger.Size // in all runs that have ended
	Sent      banger.Size // in all runs that have ended
	MachineID string
	Lease     string // of the client that needs it; empty: it stays
	CreatedAt time.Time
	Phase     Phase
	Wanted    banger.Wanted
	Ending    banger.Ending
	EndingBy  string
	EndedAt   time.Time
}

const vmColumns = `id, name, image, image_id, kernel, kernel_id, vcpus, memory, overlay, disk,
	driver, network, slot, nat, isolated, published, received, sent, machine_id, lease, created_at, phase, wanted, ending, ending_by, ended_at`

func scanVM(row scanner) (VM, error) {
	var v VM
	var created, ended int64
	err := row.Scan(&v.ID, &v.Name, &v.Image, &v.ImageID, &v.Kernel, &v.KernelID, &v.VCPUs, &v.Memory, &v.Overlay, &v.Disk,
		&v.Driver, &v.Network, &v.Slot, &v.NAT, &v.Isolated, &v.Published, &v.Received, &v.Sent, &v.MachineID, &v.Lease, &created, &v.Phase, &v.Wanted, &v.Ending, &v.EndingBy, &ended)
	v.CreatedAt, v.EndedAt = instant(created), instant(ended)
	return v, err
}

// InsertVM stores a new VM and returns its slot. A name or ID that is taken is a
// Conflict, an image that has been forgotten NotFound: from here on it cannot be.
func (s *Store) InsertVM(ctx context.Context, v VM) (slot int, err error) {
	err = s.write(ctx, func(tx *sql.Tx) (err error) {
		if err := vacant(ctx, tx, v); err != nil {
			return err
		}
		if err := imageKnown(ctx, tx, v); err != nil {
			return err
		}
		if v.Slot, err = freeSlot(ctx, tx, v.ID); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO vms ("+vmColumns+") VALUES (?"+strings.Repeat(", ?", 25)+")",
			v.ID, v.Name, v.Image, v.ImageID, v.Kernel, v.KernelID, v.VCPUs, v.Memory, v.Overlay, v.Disk,
			v.Driver, v.Network, v.Slot, v.NAT, v.Isolated, v.Published, v.Received, v.Sent, v.MachineID, v.Lease, stamp(v.CreatedAt), v.Phase, v.Wanted, v.Ending, v.EndingBy, stamp(v.EndedAt))
		return err
	})
	return v.Slot, during(err, "store VM %q", v.Name)
}

// Rename gives the VM another name. One that is taken is a Conflict.
func (s *Store) Rename(ctx context.Context, id banger.VMID, name string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		var holder banger.VMID
		err := tx.QueryRowContext(ctx, "SELECT id FROM vms WHERE name = ?", name).Scan(&holder)
		switch {
		case err == nil && holder == id:
			return nil
		case err == nil:
			return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("a VM named %q already exists", name), Fix: "choose another name: banger vm list"}
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		result, err := tx.ExecContext(ctx, "UPDATE vms SET name = ? WHERE id = ?", name, id)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return absent(sql.ErrNoRows)
	})
	return during(err, "name VM %s %q", id, name)
}

func vacant(ctx context.Context, tx *sql.Tx, v VM) error {
	other, err := scanVM(tx.QueryRowContext(ctx, "SELECT "+vmColumns+" FROM vms WHERE name = ? OR id = ?", v.Name, v.ID))
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	taken := &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("a VM named %q already exists", v.Name), Fix: "choose another --name"}
	switch {
	case other.Name != v.Name:
		taken.Why, taken.Fix = fmt.Errorf("the ID %s is taken by VM %q", v.ID, other.Name), ""
	case other.Phase == Creating:
		taken.Why = fmt.Errorf("a VM named %q is being created", v.Name)
	case other.Phase == Deleting:
		taken.Why, taken.Fix = fmt.Errorf("a VM named %q is being deleted", v.Name), fmt.Sprintf("banger vm delete %s finishes it", v.Name)
	}
	return taken
}

func imageKnown(ctx context.Context, tx *sql.Tx, v VM) error {
	var known int
	err := tx.QueryRowContext(ctx, "SELECT count(*) FROM images WHERE digest = ?", v.ImageID).Scan(&known)
	if err != nil || known > 0 {
		return err
	}
	return &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("image %q has just been deleted", v.Image), Fix: "banger image list"}
}

// VMs returns all VMs by name, in whatever phase.
func (s *Store) VMs(ctx context.Context) ([]VM, error) {
	all, err := collect(ctx, s.readers, scanVM, "SELECT "+vmColumns+" FROM vms ORDER BY name")
	return all, during(err, "list VMs")
}

// SetPhase stores how far the VM's life has come.
func (s *Store) SetPhase(ctx context.Context, id banger.VMID, phase Phase) error {
	return s.change(ctx, id, "UPDATE vms SET phase = ? WHERE id = ?", phase, id)
}

// SetWanted stores whether the VM should run.
func (s *Store) SetWanted(ctx context.Context, id banger.VMID, wanted banger.Wanted) error {
	return s.change(ctx, id, "UPDATE vms SET wanted = ? WHERE id = ?", wanted, id)
}

// SetSettings stores a VM's driver, resources and network.
func (s *Store) SetSettings(ctx context.Context, vm VM) error {
	return s.change(ctx, vm.ID, "UPDATE vms SET driver = ?, vcpus = ?, memory = ?, overlay = ?, disk = ?, network = ?, nat = ?, isolated = ?, published = ? WHERE id = ?",
		vm.Driver, vm.VCPUs, vm.Memory, vm.Overlay, vm.Disk, vm.Network, vm.NAT, vm.Isolated, vm.Published, vm.ID)
}

// SetEnding stores how the VM's last run ended.
func (s *Store) SetEnding(ctx context.Context, id banger.VMID, ending banger.Ending, detail string, at time.Time) error {
	return s.change(ctx, id, "UPDATE vms SET ending = ?, ending_by = ?, ended_at = ? WHERE id = ?", ending, detail, stamp(at), id)
}

// DeleteVM forgets the VM; NotFound when it is not there.
func (s *Store) DeleteVM(ctx context.Context, id banger.VMID) error {
	return s.change(ctx, id, "DELETE FROM vms WHERE id = ?", id)
}

// change runs a statement that must meet exactly one VM.
func (s *Store) change(ctx context.Context, id banger.VMID, statement string, args ...any) error {
	result, err := s.writer.ExecContext(ctx, statement, args...)
	if err != nil {
		return during(s.full(err), "change VM %s", id)
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return during(absent(sql.ErrNoRows), "change VM %s", id)
}

// absent turns SQL's "no rows" into a NotFound error.
func absent(err error) error {
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return &banger.Error{Kind: banger.NotFound, Why: errors.New("there is no such VM"), Fix: "banger vm list"}
}

// during says what was attempted, unless the error was written for users.
func during(err error, format string, args ...any) error {
	if _, ok := err.(*banger.Error); ok || err == nil {
		return err
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
