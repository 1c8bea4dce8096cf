package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// announceTime bounds the wait for a port whose device exists.
const announceTime = 5 * time.Second

// OpenPort opens the virtio-serial port with this name. The kernel announces ports a
// moment after their device, and OpenPort waits for that. The error is
// fs.ErrNotExist if the machine has no such port.
func OpenPort(name string) (*Port, error) {
	if devices, _ := filepath.Glob("/sys/bus/virtio/drivers/virtio_console/virtio*"); len(devices) == 0 {
		return nil, missing(name)
	}
	events, err := openEvents()
	if err != nil {
		return nil, fmt.Errorf("listen for serial ports: %w", err)
	}
	defer events.Close()
	events.SetReadDeadline(time.Now().Add(announceTime))
	for buf := make([]byte, 4096); ; {
		if device := findDevice(name); device != "" {
			return openDevice(device)
		}
		if _, err := events.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, missing(name)
		} else if err != nil && !errors.Is(err, unix.ENOBUFS) { // some were lost: look again
			return nil, fmt.Errorf("listen for serial ports: %w", err)
		}
	}
}

func missing(name string) error { return fmt.Errorf("serial port %s: %w", name, fs.ErrNotExist) }

// openEvents listens to the kernel's announcements of devices.
func openEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	const fromKernel = 1 // a multicast group
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: fromKernel}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

func findDevice(name string) string {
	files, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, file := range files {
		if got, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(got)) == name {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(file)))
		}
	}
	return ""
}

func openDevice(path string) (*Port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return NewPort(os.NewFile(uintptr(fd), path))
}
