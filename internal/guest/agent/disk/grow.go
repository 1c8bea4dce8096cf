package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/log"
)

// resizeTime bounds the wait for the kernel to notice that a disk has grown.
const resizeTime = 20 * time.Second

// GrowAll waits until the disks have these sizes, by label, and then grows each
// writable file system that is smaller than its disk.
func GrowAll(sizes map[string]int64) error {
	found := Devices()
	if err := awaitSizes(found, sizes, resizeTime); err != nil {
		return err
	}
	var errs []error
	for _, label := range writable {
		if device := found[label]; device != "" {
			errs = append(errs, growMounted(device))
		}
	}
	return errors.Join(errs...)
}

// awaitSizes waits until the kernel knows that the disks are this large.
func awaitSizes(disks map[string]string, sizes map[string]int64, within time.Duration) error {
	events, err := openUevents() // before the look, so that no change is missed
	if err != nil {
		return err
	}
	defer unix.Close(events)
	end := time.Now().Add(within)
	for label, want := range sizes {
		device := disks[label]
		if device == "" {
			return fmt.Errorf("no disk labelled %q", label)
		}
		for {
			size, err := deviceSize(device)
			if err != nil {
				return err
			}
			if int64(size) >= want {
				break
			}
			if err := waitForBlock(events, end); err != nil {
				return fmt.Errorf("%s (%s) has %d bytes, not %d: %w", device, label, size, want, err)
			}
		}
	}
	return nil
}

// MountGrown mounts an ext4 file system read-write and grows it to its device.
func MountGrown(device, target string) error {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	// noinit_itable: inode tables that are not cleared yet are holes in the host's
	// file, which clearing would only fill.
	if err := unix.Mount(device, target, "ext4", 0, "errors=remount-ro,noinit_itable"); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	dir, err := os.Open(target)
	if err != nil {
		return err
	}
	defer dir.Close()
	return grow(device, dir)
}

// ext4ResizeFS is EXT4_IOC_RESIZE_FS of the kernel's fs/ext4/ext4.h.
const ext4ResizeFS = 0x40086610

// grow makes the mounted file system of device as large as the device. dir is
// any directory on it.
func grow(device string, dir *os.File) error {
	s, err := superblockOf(device)
	if err != nil {
		return err
	}
	size, err := deviceSize(device)
	if err != nil {
		return err
	}
	blocks := size / s.blockSize
	if blocks <= s.blocks {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return fmt.Errorf("grow %s from %d to %d blocks: %w", device, s.blocks, blocks, errno)
	}
	log.Infof("grew %s (%s) from %d to %d blocks", device, s.label, s.blocks, blocks)
	return nil
}

func deviceSize(device string) (uint64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", device, err)
	}
	return uint64(end), nil
}

// growMounted grows the mounted file system of device, wherever it is mounted: the
// mount made here is never attached, and shares the file system's superblock.
func growMounted(device string) error {
	fs, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", device); err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	defer unix.Close(mount)
	fd, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	dir := os.NewFile(uintptr(fd), device)
	defer dir.Close()
	return grow(device, dir)
}
