package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/linux"
)

// Dir is a VM's directory, held open. Its sockets are reached through the descriptor:
// the 108 bytes of a socket's address are too few for the path of many home
// directories.
type Dir struct {
	file *os.File

	mu     sync.RWMutex // held for reading while the descriptor is used in a path
	closed bool
}

// OpenDir opens a VM's directory.
func OpenDir(path string) (*Dir, error) {
	file, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the VM's directory: %w", err)
	}
	return &Dir{file: file}, nil
}

// Path returns a short path of a file in the directory, for this process only.
func (d *Dir) Path(name string) string {
	return linux.Through(d.file, name)
}

// Dial connects to a socket in the directory. It may be called at any time,
// also while the directory is closed: then it fails.
func (d *Dir) Dial(ctx context.Context, name string) (net.Conn, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil, fmt.Errorf("connect to %s: %w", name, os.ErrClosed)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", d.Path(name))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", name, errors.Unwrap(err))
	}
	return conn, nil
}

// Listen creates a listening socket for a VMM to inherit: clients that connect early
// wait in its queue. It replaces an old socket.
func (d *Dir) Listen(name string) (*os.File, error) {
	if err := d.Remove(name); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket %s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	err = unix.Fchmod(fd, 0o600) // before it has a name: private from birth
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: d.Path(name)})
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	return file, nil
}

// Create opens a file for writing, and creates it with mode 0600 if it is missing.
func (d *Dir) Create(name string, flags int) (*os.File, error) {
	return os.OpenFile(d.Path(name), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|flags, 0o600)
}

// Remove removes files that may be missing.
func (d *Dir) Remove(names ...string) error {
	var errs []error
	for _, name := range names {
		if err := os.Remove(d.Path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Close closes the directory.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.file.Close()
}
