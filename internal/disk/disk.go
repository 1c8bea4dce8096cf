// Package disk makes and grows the ext4 disks of VMs as sparse files, and
// knows how much room the host has. It never looks into a disk of a VM.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/durable"
	"banger/internal/hostcmd"
)

// Smallest and Largest bound the size of a disk. Below 64 MiB ext4 has no room
// for a journal worth the name; 16 TiB is what 4 KiB blocks of 32 bits reach.
const (
	Smallest = 64 * banger.MiB
	Largest  = 16 * banger.TiB
)

// growth is how many times a disk can grow with its descriptors in one place;
// beyond it the guest's kernel spreads them. Without a bound mke2fs writes 4 MiB
// to every disk for a growth of a thousand times, most of what a new one takes.
const growth = 100

// fresh is what a new disk takes on the host at once.
const fresh = 8 * banger.MiB

// Create makes a sparse file at path and an empty ext4 with the label in it.
// path must not exist; nothing is left behind a failure. The content is on the
// host's disk then, its name is not.
func Create(ctx context.Context, run hostcmd.Runner, path string, size banger.Size, label string) (err error) {
	mke2fs, err := run.Look("mke2fs")
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	if err := errors.Join(file.Truncate(int64(size)), file.Close()); err != nil {
		return fmt.Errorf("make a file of %v: %w", size, err)
	}
	// Without a reserve for root: the disk is one user's. The tables are left
	// to the guest's kernel to write, when it is idle. Small disks would get
	// blocks of 1 KiB, and with them so many groups that growing takes minutes.
	options := fmt.Sprintf("lazy_itable_init=1,lazy_journal_init=1,nodiscard,resize=%dK", size/banger.KiB*growth)
	_, err = run.Run(ctx, hostcmd.Cmd{Argv: []string{mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-L", label, "-m", "0", "-E", options, path}})
	if err != nil {
		return err
	}
	return durable.Sync(path)
}

// Grow makes the file of a disk larger; the file system in it is grown by the
// guest. A disk is never made smaller. When it returns, the host itself may
// crash without the disk becoming smaller again.
func Grow(path string, size banger.Size) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && banger.Size(info.Size()) < size {
		err = file.Truncate(int64(size))
	}
	return errors.Join(err, file.Close(), durable.Sync(path))
}

// Free is the room on the file system that holds dir for this user.
func Free(dir string) (banger.Size, error) {
	_, free, err := Space(dir)
	return free, err
}

// Space is the size of the file system that holds dir, and its room for this user.
func Space(dir string) (total, free banger.Size, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, 0, fmt.Errorf("look for free space at %s: %w", dir, err)
	}
	block := banger.Size(stat.Bsize)
	return banger.Size(stat.Blocks) * block, banger.Size(stat.Bavail) * block, nil
}

// CheckRoom returns an Unready error unless dir's file system has room for n
// new disks and a reserve, so that a VM's first boot does not fill the host.
func CheckRoom(dir string, n int) error {
	const reserve = 256 * banger.MiB
	free, err := Free(dir)
	if err != nil {
		return err
	}
	if need := banger.Size(n)*fresh + reserve; free < need {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("%s has %v free, a new VM needs %v", dir, free, need),
			Fix: "delete a VM that is not needed any more (banger vm list), or free space on " + MountPoint(dir)}
	}
	return nil
}

// MountPoint is where the file system that holds dir is mounted.
func MountPoint(dir string) string {
	device := func(path string) (uint64, bool) {
		var stat unix.Stat_t
		err := unix.Stat(path, &stat)
		return stat.Dev, err == nil
	}
	want, ok := device(dir)
	for ok && dir != "/" {
		up := filepath.Dir(dir)
		if dev, seen := device(up); !seen || dev != want {
			break
		}
		dir = up
	}
	return dir
}
