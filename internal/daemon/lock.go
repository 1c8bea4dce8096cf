package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
)

// lock makes this process the one daemon of a state directory. It is the
// lock file, flock'ed for the daemon's life, with the daemon's record in it.
type lock struct {
	file *os.File
	gate *os.File // nil once the record is written
}

// taken is the error of a daemon that is not the first.
type taken struct {
	error
	socket string
}

func (t *taken) Unwrap() error { return t.error }

// admit takes the lock at path. Starters queue at the gate, a lock on the
// directory that each keeps until its record is written: whoever finds the
// lock held finds the holder's record complete. A holder that is stopping is
// waited for; any other makes a Conflict that names it.
func admit(ctx context.Context, path string) (*lock, error) {
	gate, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	l := &lock{gate: gate}
	if err := flock(ctx, gate, unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for other daemons that start: %w", err), l.close())
	}
	if l.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, errors.Join(err, l.close())
	}
	err = flock(ctx, l.file, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = l.queue(ctx, path)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// queue waits for the lock's holder when that one is stopping.
func (l *lock) queue(ctx context.Context, path string) error {
	holder, err := api.ReadRecord(path)
	if err != nil {
		return err
	}
	if holder.Socket == "" {
		return flock(ctx, l.file, unix.LOCK_EX)
	}
	return &taken{socket: holder.Socket, error: &banger.Error{
		Kind: banger.Conflict, What: "start bangerd",
		Why: fmt.Errorf("another one (pid %d) has this state directory and listens at %s", holder.PID, holder.Socket),
		Fix: "banger daemon stop",
	}}
}

// publish writes the record and opens the gate. An empty socket says that the
// daemon is stopping.
func (l *lock) publish(socket string) error {
	data, err := json.Marshal(api.Record{PID: os.Getpid(), Socket: socket})
	if err != nil {
		return err
	}
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	// Padded over what is there, so that one write does it and no reader sees a
	// part of two records.
	rest := max(0, int(info.Size())-len(data)-1)
	data = append(append(data, bytes.Repeat([]byte(" "), rest)...), '\n')
	if _, err := l.file.WriteAt(data, 0); err != nil {
		return err
	}
	if l.gate == nil {
		return nil
	}
	err = l.gate.Close()
	l.gate = nil
	return err
}

func (l *lock) close() error {
	var errs []error
	for _, file := range []*os.File{l.file, l.gate} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}

// flock locks file, or gives up when ctx ends. The system call cannot be called
// back: a lock that comes too late is let go of when the file is closed.
func flock(ctx context.Context, file *os.File, how int) error {
	done := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(file.Fd()), how)
			if !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
