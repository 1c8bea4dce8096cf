package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/operation"
)

// installs returns the steps that copy from the runtime bundle what the VM is the
// first to need. They run after its row exists, since what a row needs is not deleted.
func (c *creating) installs() []operation.Step {
	v, row := c.v, c.row
	var steps []operation.Step
	for _, part := range []struct {
		name, file, what string
		bundled          bool
		bring            func(context.Context, config.Dirs) error
	}{
		{"install kernel", v.Dirs.Kernel(row.KernelID).Vmlinux(), fmt.Sprintf("the kernel %q", row.Kernel), v.Installed.Kernel.ID == row.KernelID, v.Bundle.InstallKernel},
		{"install image", v.Dirs.Image(row.ImageID).Rootfs(), fmt.Sprintf("the image %q", row.Image), v.Installed.Image.ID == row.ImageID, v.Bundle.InstallImage},
	} {
		if _, err := os.Stat(part.file); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		steps = append(steps, operation.Step{Name: part.name, Do: func(ctx context.Context) error {
			if !part.bundled {
				return v.missing(part.what + " was never installed from a runtime bundle")
			}
			return v.install(ctx, part.bring)
		}})
	}
	return steps
}

// install copies one part at a time; whoever waited finds it installed.
func (v *VMs) install(ctx context.Context, bring func(context.Context, config.Dirs) error) error {
	select {
	case v.installing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-v.installing }()
	err := bring(ctx, v.Dirs)
	switch {
	case err == nil || ctx.Err() != nil:
		return err
	case disk.Full(err):
		return v.noSpace(err)
	}
	return v.unready(err)
}

// missing returns the error for a part that the runtime bundle should have.
func (v *VMs) missing(what string) error {
	if v.Missing == nil {
		return v.unready(errors.New(what))
	}
	return v.unready(fmt.Errorf("%s: %w", what, v.Missing))
}

// unready returns the error for a bundle that must be repaired. The next daemon
// reads it again.
func (v *VMs) unready(why error) error {
	fix := "make runtime"
	switch known := banger.FixOf(why); {
	case disk.Full(why):
		fix = v.freeSpace()
	case known != "":
		fix = known
	}
	// The innermost fix is the one shown, and here there is more to do than it says.
	return &banger.Error{Kind: banger.Unready, Why: errors.New(why.Error()), Fix: fix + ", then: banger daemon stop"}
}

// noSpace gives an error about a full disk of the host its kind and its fix.
func (v *VMs) noSpace(err error) error {
	fix := banger.FixOf(err)
	if !disk.Full(err) || fix != "" && !strings.HasPrefix(fix, readLog) {
		return err
	}
	if fix != "" { // the innermost fix is the one shown
		err = errors.New(err.Error())
	}
	return &banger.Error{Kind: banger.Unready, Why: err, Fix: v.freeSpace()}
}

// readLog begins a fix that knows no better.
const readLog = "less "

func (v *VMs) freeSpace() string { return "free space on " + disk.MountPoint(v.Dirs.State) }
