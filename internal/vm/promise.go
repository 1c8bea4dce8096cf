package vm

import (
	"fmt"

	"banger"
	"banger/internal/disk"
)

// checkPromise returns an error if a requested disk is larger than the host's file
// system. It ignores defaults, which suit small hosts as well: a sparse disk uses
// only what is written to it.
func (v *VMs) checkPromise(overlay, work banger.Size) error {
	total, _, err := disk.Space(v.Dirs.VMs())
	if err != nil {
		return err
	}
	for _, d := range []struct {
		flag string
		size banger.Size
	}{{"--disk-size", work}, {"--overlay-size", overlay}} {
		if d.size > total {
			return banger.Invalidf(d.flag+" "+half(total), "%s of %v is more than the file system at %s has in all: %v",
				d.flag, d.size, disk.MountPoint(v.Dirs.VMs()), total)
		}
	}
	return nil
}

// spaceWarning returns a note if disks of these sizes, which occupy taken so far,
// could outgrow the host's free space.
func (v *VMs) spaceWarning(overlay, work, taken banger.Size) string {
	_, free, err := disk.Space(v.Dirs.VMs())
	if more := overlay + work - taken; err == nil && more > free {
		return fmt.Sprintf("its disks may grow by %v, but %s has only %v free now: a full host pauses the VM",
			more, disk.MountPoint(v.Dirs.VMs()), free)
	}
	return ""
}
