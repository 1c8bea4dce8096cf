package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Await connects to a socket in the directory as soon as somebody listens on it,
// within ctx: for VMMs that make their sockets themselves.
func (d *Dir) Await(ctx context.Context, name string) (net.Conn, error) {
	// First without a watch: a user may have only so many.
	if conn, err := d.Dial(ctx, name); err == nil {
		return conn, nil
	}
	watch, err := watchDir(d.Path("."))
	if err != nil {
		return nil, fmt.Errorf("watch for %s: %w", name, err)
	}
	defer watch.Close()
	defer context.AfterFunc(ctx, func() { watch.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		conn, err := d.Dial(ctx, name)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, syscall.ENOENT):
			_, err = watch.Read(make([]byte, 4096))
		case errors.Is(err, syscall.ECONNREFUSED):
			// It has its name and nobody listens yet: nothing tells when that is over.
			err = Pause(ctx, time.Millisecond)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("wait for %s: %w", name, err)
		}
	}
}

// Pause waits, within ctx, where there is no event to wait for.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watchDir returns a file that can be read whenever something is made in a directory.
func watchDir(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
