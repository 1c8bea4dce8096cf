package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// diskTime bounds how long a disk may take to appear after its driver was loaded.
const diskTime = 15 * time.Second

func (b *boot) findDisks() error {
	need := []string{wire.LabelBase, wire.LabelModules, wire.LabelOverlay}
	if b.config.WorkMount != "" {
		need = append(need, wire.LabelWork)
	}
	found, err := waitForDisks(need, diskTime)
	b.disks = found
	return err
}

// waitForDisks returns the devices of the labels needed, waiting for the
// kernel's word of new ones while some are missing.
func waitForDisks(need []string, within time.Duration) (map[string]string, error) {
	events, err := openUevents()
	if err != nil {
		return nil, err
	}
	defer unix.Close(events)
	end := time.Now().Add(within)
	for {
		found, seen, read := scanDisks()
		missing := slices.DeleteFunc(slices.Clone(need), func(label string) bool { return found[label] != "" })
		if len(missing) == 0 {
			return found, nil
		}
		// No more will come when there are the four that every VM has.
		if read == vmDisks {
			err = errOtherDisks
		} else {
			err = waitForBlock(events, end)
		}
		if err != nil {
			return nil, fmt.Errorf("no disk labelled %s among %s: %w", strings.Join(missing, ", "), seen, err)
		}
	}
}

// vmDisks is how many disks a VM has: base, modules, overlay, work.
const vmDisks = 4

var errOtherDisks = errors.New("no other disk will come")

// scanDisks reads the labels of all virtio disks, describes what it saw, and
// counts those that could be read.
func scanDisks() (byLabel map[string]string, seen string, read int) {
	byLabel = map[string]string{}
	var list []string
	names, _ := filepath.Glob("/sys/class/block/vd*")
	for _, name := range names {
		device := "/dev/" + filepath.Base(name)
		s, err := superblockOf(device)
		if err == nil || errors.Is(err, errNotExt4) {
			read++
		}
		if err != nil {
			list = append(list, fmt.Sprintf("%s (%v)", device, err))
			continue
		}
		list = append(list, fmt.Sprintf("%s (%q)", device, s.label))
		if byLabel[s.label] == "" {
			byLabel[s.label] = device
		}
	}
	if len(list) == 0 {
		return byLabel, "no disks at all", 0
	}
	return byLabel, strings.Join(list, " "), read
}

func openUevents() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("listen for devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen for devices: %w", err)
	}
	return fd, nil
}

var errNoMoreDevices = errors.New("none appeared in time")

// waitForBlock returns when the kernel told of a block device.
func waitForBlock(events int, end time.Time) error {
	buf := make([]byte, 8<<10)
	for {
		left := time.Until(end)
		if left <= 0 {
			return errNoMoreDevices
		}
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(events), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("listen for devices: %w", err)
		}
		n, err := unix.Read(events, buf)
		if err == nil && bytes.Contains(buf[:n], []byte("\x00SUBSYSTEM=block\x00")) || err == unix.ENOBUFS {
			return nil
		}
	}
}

// resizeTime bounds the wait for the kernel to hear that a disk has grown.
const resizeTime = 20 * time.Second

// growAll grows each file system of the VM's own that is smaller than its disk,
// once the disks have the sizes that are expected of them.
func growAll(sizes map[string]int64, within time.Duration) error {
	found, _, _ := scanDisks()
	if err := awaitSizes(found, sizes, within); err != nil {
		return err
	}
	var errs []error
	for _, label := range []string{wire.LabelOverlay, wire.LabelWork} {
		if device := found[label]; device != "" {
			errs = append(errs, growMounted(device))
		}
	}
	return errors.Join(errs...)
}

// awaitSizes waits until the kernel has heard how large the disks have become.
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

// mountGrown mounts an ext4 file system read-write and grows it to its device.
func mountGrown(device, target string) error {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	// The inode tables that were not cleared yet are holes in the host's file: to
	// clear them would only fill these.
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
