package link

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenPort opens the virtio-serial port with this name. The error is
// fs.ErrNotExist where the machine has none.
func OpenPort(name string) (*Port, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		if got, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(got)) == name {
			return openDevice(filepath.Join("/dev", filepath.Base(filepath.Dir(file))))
		}
	}
	return nil, fmt.Errorf("serial port %s: %w", name, fs.ErrNotExist)
}

func openDevice(path string) (*Port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return NewPort(os.NewFile(uintptr(fd), path))
}
