package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/store"
)

// sharedFile is an immutable file that VMs share, and its name in a VM's directory.
type sharedFile struct {
	from, name string
	has        func(store.VM) bool // whether a VM has the same
}

func (v *VMs) sharedFiles(row store.VM) []sharedFile {
	kernel := v.Dirs.Kernel(row.KernelID)
	sameKernel := func(other store.VM) bool { return other.KernelID == row.KernelID }
	sameImage := func(other store.VM) bool { return other.ImageID == row.ImageID }
	return []sharedFile{
		{kernel.Vmlinux(), config.KernelName, sameKernel},
		{kernel.Modules(), config.ModulesName, sameKernel},
		{v.Dirs.Image(row.ImageID).Rootfs(), config.BaseName, sameImage},
	}
}

// linkShared links the kernel, the modules and the image into a VM's directory. Where a
// file system cannot do that, the VM gets a copy.
func (v *VMs) linkShared(ctx context.Context, dir config.VMDir, row store.VM) error {
	for _, file := range v.sharedFiles(row) {
		to := dir.Path(file.name)
		if _, err := os.Lstat(to); err == nil {
			continue // whatever has become of the other name
		}
		if err := v.share(ctx, file, to); err != nil {
			return err
		}
	}
	return nil
}

// share links a file. If the directory of VMs is on another file system, the link is to
// the copy of another VM, if there is one.
func (v *VMs) share(ctx context.Context, file sharedFile, to string) error {
	err := os.Link(file.from, to)
	if err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	if errors.Is(err, os.ErrNotExist) {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("link the image and the kernel: %w", err), Fix: "banger doctor"}
	}
	for _, o := range v.all() {
		row, _, _ := o.now()
		if file.has(row) && os.Link(o.dir().Path(file.name), to) == nil {
			return nil
		}
	}
	err = bundle.Copy(ctx, file.from, to)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case errors.Is(err, syscall.ENOSPC):
		return &banger.Error{Kind: banger.Unready, Why: err, Fix: "free space on " + disk.MountPoint(v.Dirs.VMs())}
	}
	return &banger.Error{Kind: banger.Unready, Why: err,
		Fix: fmt.Sprintf("put %s and %s on one file system, or on two that this user can write", filepath.Dir(filepath.Dir(file.from)), v.Dirs.VMs())}
}
