package vm

import (
	"fmt"

	"banger"
	"banger/internal/disk"
)

// checkPromise refuses a disk that the host's file system could never hold, were
// it empty. What was not asked for is not refused: a default is for large hosts
// and small ones, and a disk that is sparse takes only what is written to it.
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
			return banger.Invalidf(d.flag+" "+exact(total/2), "%s of %v is more than the file system at %s has in all: %v",
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
		return fmt.Sprintf("its disks may grow by %v, and %s has %v free now: the VM stops working when that is used up",
			more, disk.MountPoint(v.Dirs.VMs()), free)
	}
	return ""
}
