package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/operation"
	"banger/internal/vmm"
)

// vmDisk is one of a VM's own disks.
type vmDisk struct{ name, label, path string }

func disksOf(dir config.VMDir) []vmDisk {
	return []vmDisk{{"overlay", wire.LabelOverlay, dir.Overlay()}, {"work", wire.LabelWork, dir.Work()}}
}

// suspect records that the VM's disks have to be checked before they are mounted again.
// The guest's kernel records errors on a disk itself, but not on one that it cannot write.
func (o *owner) suspect() {
	path := o.dir().Suspect()
	if _, err := os.Lstat(path); err == nil {
		return
	}
	o.log().Warn("a disk has errors: the disks are checked before the next start")
	if err := durable.WriteFile(path, nil, 0o600); err != nil {
		o.log().Error("record that the disks have errors", "err", err)
	}
}

// suspected reports whether the VM's disks have to be checked.
func (o *owner) suspected() bool {
	_, err := os.Lstat(o.dir().Suspect())
	return err == nil
}

// trust ends suspect, once the disks have been checked.
func (o *owner) trust() error {
	err := os.Remove(o.dir().Suspect())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// needsFsck is the error of a disk that a start does not mount as it is.
func (o *owner) needsFsck(d vmDisk, err error) error {
	if banger.KindOf(err) != banger.Conflict {
		return err
	}
	return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("the %s disk is damaged: %w", d.name, err), Fix: "banger vm fsck " + o.name()}
}

// checkDisks makes sure that everything the VMM will open is there, and that no
// file system with errors is mounted. Missing links to the shared disks are made
// again.
func (s *starting) checkDisks(ctx context.Context) error {
	if err := s.v.linkShared(ctx, s.dir(), s.row); err != nil {
		return err
	}
	suspected := s.suspected()
	for _, d := range disksOf(s.dir()) {
		errs, err := disk.Errors(d.path)
		if errors.Is(err, os.ErrNotExist) {
			return &banger.Error{Kind: banger.Unready, Why: err,
				Fix: "restore the disk from a backup, or delete the VM: banger vm delete " + s.row.Name}
		}
		if err != nil {
			return s.needsFsck(d, err)
		}
		switch {
		case errs > 0:
			s.Warn("check disks", fmt.Sprintf("the file system on the %s disk has %d errors; it is checked", d.name, errs))
		case suspected:
			s.Warn("check disks", "the "+d.name+" disk had errors, or the other one; it is checked")
		default:
			continue
		}
		if _, err := disk.Check(ctx, locking{s.v.Run, s.lock}, d.path); err != nil {
			return s.needsFsck(d, err)
		}
	}
	return s.trust()
}

// fscking is the state that the steps of a check share.
type fscking struct {
	*operation.Operation
	*owner
	opts banger.FsckVM
	run  hostcmd.Runner
}

// FsckVM implements banger.VMService.
func (v *VMs) FsckVM(ctx context.Context, ref string, opts banger.FsckVM, progress banger.Progress) (_ banger.Fsck, err error) {
	o, op, end, err := v.begin(ctx, banger.FsckDisks, ref, progress)
	if err != nil {
		return banger.Fsck{}, err
	}
	defer func() { end(&err) }()
	if err := o.noStranger(ctx); err != nil {
		return banger.Fsck{}, err
	}
	lock, err := vmm.Lock(o.dir().Lock())
	if errors.Is(err, vmm.ErrLocked) {
		err = o.errStranger()
	}
	if err != nil {
		return banger.Fsck{}, err
	}
	defer lock.Close()
	f := &fscking{op, o, opts, locking{v.Run, lock}}
	result, damaged := banger.Fsck{ID: o.id, Name: o.name()}, false
	for _, d := range disksOf(o.dir()) {
		var found banger.FsckDisk
		err := op.Step(ctx, "check the "+d.name+" disk", func(ctx context.Context) (err error) {
			found, err = f.check(ctx, d)
			return err
		})
		if err != nil {
			return banger.Fsck{}, err
		}
		damaged = damaged || found.Result == banger.FsckDamaged
		result.Disks = append(result.Disks, found)
	}
	if !damaged {
		err = o.trust()
	}
	return result, err
}

// check checks a disk and, if that is allowed, repairs one that takes a decision.
func (f *fscking) check(ctx context.Context, d vmDisk) (banger.FsckDisk, error) {
	found := banger.FsckDisk{Disk: d.name}
	var err error
	found.Result, err = disk.Check(ctx, f.run, d.path)
	if found.Result != banger.FsckDamaged {
		return found, err
	}
	if !f.opts.Yes {
		found.Why = err.Error()
		return found, nil
	}
	if !f.opts.NoCopy {
		if found.Copy, err = f.keep(ctx, d); err != nil {
			return found, err
		}
	}
	// A repair that stops half-way leaves the disk worse than it was.
	if err := disk.Repair(context.WithoutCancel(ctx), f.run, d.path); err != nil {
		return found, err
	}
	found.Result = banger.FsckRepaired
	return found, nil
}

// keep copies a disk, in place of an earlier copy, and returns the copy's path.
func (f *fscking) keep(ctx context.Context, d vmDisk) (string, error) {
	dir, path := f.dir(), f.dir().BeforeFsck(filepath.Base(d.path))
	without := "or without a copy: banger vm fsck --yes --no-copy " + f.name()
	used, err := allocated(d.path)
	if err != nil {
		return "", err
	}
	if _, free, err := disk.Space(string(dir)); err == nil && free < used {
		return "", &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("a copy of the %s disk needs %v, and %s has %v free", d.name, used, disk.MountPoint(string(dir)), free),
			Fix: "free space on " + disk.MountPoint(string(dir)) + ", " + without}
	}
	fresh := path + ".new"
	os.Remove(fresh) // of a daemon that was killed
	if err := disk.Copy(ctx, f.run, d.path, fresh); err != nil {
		if disk.Full(err) || ctx.Err() != nil {
			return "", err
		}
		return "", &banger.Error{Why: fmt.Errorf("copy the %s disk: %w", d.name, err), Fix: "see what the host's log says of its disks, " + without}
	}
	return path, durable.Rename(fresh, path)
}
