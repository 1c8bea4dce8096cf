package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/linux"
)

// Await connects to a socket in the directory as soon as a process listens on it,
// within ctx. It is for VMMs that create their sockets themselves.
func (d *Dir) Await(ctx context.Context, name string) (net.Conn, error) {
	// First without a watch: a user may have few of them.
	if conn, err := d.Dial(ctx, name); err == nil {
		return conn, nil
	}
	made := make(chan struct{}, 1)
	stop, err := linux.Watch(d.Path("."), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR, made)
	if err != nil {
		return nil, fmt.Errorf("watch for %s: %w", name, err)
	}
	defer stop()
	for {
		conn, err := d.Dial(ctx, name)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, syscall.ENOENT):
			select {
			case <-made:
				err = nil
			case <-ctx.Done():
			}
		case errors.Is(err, syscall.ECONNREFUSED):
			// It has a name but no listener yet, and there is no event for that.
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

// Pause waits for d, within ctx. It is for what has no event.
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
