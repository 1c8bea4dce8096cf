// Package disk creates, grows and checks the ext4 disks of VMs, which are sparse
// files, and reports the host's free space. It does not mount them or read the
// guest's files.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/durable"
	"banger/internal/hostcmd"
)

// Smallest and Largest are the limits of a disk's size. Below 64 MiB ext4 has no
// room for a useful journal; 16 TiB is the most that 32-bit numbers of 4 KiB
// blocks can address.
const (
	Smallest = 64 * banger.MiB
	Largest  = 16 * banger.TiB
)

// growth is the factor by which a disk can grow before the guest's kernel has to
// spread its group descriptors. mke2fs' default of 1000 would write 4 MiB to
// every disk, most of what a new disk uses.
const growth = 100

// fresh is the space that a new disk uses on the host.
const fresh = 8 * banger.MiB

// Create creates a sparse file at path that holds an empty ext4 with the label.
// path must not exist. A failure leaves nothing behind. The content is synced
// when Create returns; the caller syncs the directory.
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
		return fmt.Errorf("create a file of %v: %w", size, err)
	}
	// No blocks are reserved for root, since the disk has one user. The guest's
	// kernel writes the inode tables when it is idle. Without -b, small disks get
	// 1 KiB blocks and so many groups that growing takes minutes.
	options := fmt.Sprintf("lazy_itable_init=1,lazy_journal_init=1,nodiscard,resize=%dK", size/banger.KiB*growth)
	_, err = run.Run(ctx, hostcmd.Cmd{Argv: []string{mke2fs, "-q", "-F", "-t", "ext4", "-b", "4096", "-L", label, "-m", "0", "-E", options, path}})
	if err != nil {
		return err
	}
	return durable.Sync(path)
}

// Grow enlarges a disk's file; the guest grows the file system in it. It never
// shrinks a disk. The new size is synced when Grow returns.
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

// Free returns the space that this user can use on dir's file system.
func Free(dir string) (banger.Size, error) {
	_, free, err := Space(dir)
	return free, err
}

// Space returns the size of dir's file system and the space free for this user.
func Space(dir string) (total, free banger.Size, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, 0, fmt.Errorf("measure free space at %s: %w", dir, err)
	}
	block := banger.Size(stat.Bsize)
	return banger.Size(stat.Blocks) * block, banger.Size(stat.Bavail) * block, nil
}

// CheckRoom returns an Unready error unless dir's file system has space for n
// new disks and for what a VM writes during its first boot.
func CheckRoom(dir string, n int) error {
	const reserve = 256 * banger.MiB
	free, err := Free(dir)
	if err != nil {
		return err
	}
	if need := banger.Size(n)*fresh + reserve; free < need {
		return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("%s has %v free, a new VM needs %v", dir, free, need),
			Fix: "delete a VM you no longer need (banger vm list), or free space on " + MountPoint(dir)}
	}
	return nil
}

// Full reports whether err is about a file system or a quota without space: as an errno, or
// in the words of a command or a VMM.
func Full(err error) bool {
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, errno) || err != nil && strings.Contains(strings.ToLower(err.Error()), errno.Error()) {
			return true
		}
	}
	return false
}

// MountPoint returns where dir's file system is mounted.
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
