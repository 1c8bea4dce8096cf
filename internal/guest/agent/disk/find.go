package disk

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// findTime bounds how long a disk may take to appear after its driver was loaded.
const findTime = 15 * time.Second

// Find returns the devices of these labels. It waits for the kernel to announce
// those that are missing.
func Find(need []string) (map[string]string, error) {
	events, err := openUevents()
	if err != nil {
		return nil, err
	}
	defer unix.Close(events)
	end := time.Now().Add(findTime)
	for {
		found, seen, read := scan()
		missing := slices.DeleteFunc(slices.Clone(need), func(label string) bool { return found[label] != "" })
		if len(missing) == 0 {
			return found, nil
		}
		// A VM has four disks: no more will come.
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

var errOtherDisks = errors.New("the VM has no other disk")

// Devices returns the devices of the VM's disks, by label.
func Devices() map[string]string {
	found, _, _ := scan()
	return found
}

// Names returns the names by which a file such as fstab can mean one of the VM's disks,
// besides their devices.
func Names() map[string]bool {
	names := map[string]bool{}
	devices, _ := filepath.Glob("/sys/class/block/vd*")
	for _, device := range devices {
		if s, err := superblockOf("/dev/" + filepath.Base(device)); err == nil {
			id := s.uuid
			names["LABEL="+s.label] = true
			names[fmt.Sprintf("UUID=%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])] = true
		}
	}
	return names
}

// scan reads the labels of all virtio disks, describes what it saw, and counts
// the disks that it could read.
func scan() (byLabel map[string]string, seen string, read int) {
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

var errNoMoreDevices = errors.New("it did not appear in time")

// waitForBlock returns when the kernel announces a change of a block device.
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
