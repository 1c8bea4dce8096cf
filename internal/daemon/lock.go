package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"banger"
	"banger/internal/api"
	"banger/internal/linux"
)

// lock makes this process the only daemon of a state directory. It is the lock file,
// locked as long as the daemon runs, with the daemon's record in it.
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

// admit takes the lock at path. Daemons that start queue at the gate, a lock on the
// directory that each keeps until its record is written: if the lock is held, the record
// is complete. admit waits for a holder that is stopping; any other is a Conflict that
// names it.
func admit(ctx context.Context, path string) (*lock, error) {
	gate, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	l := &lock{gate: gate}
	if err := linux.WaitFlock(ctx, gate); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for other daemons that start: %w", err), l.close())
	}
	if l.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, errors.Join(err, l.close())
	}
	err = linux.TryLock(l.file)
	if errors.Is(err, linux.ErrLocked) {
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
		return linux.WaitLock(ctx, l.file)
	}
	return &taken{socket: holder.Socket, error: &banger.Error{
		Kind: banger.Conflict, What: "start bangerd",
		Why: fmt.Errorf("another daemon (pid %d) uses this state directory and listens at %s", holder.PID, holder.Socket),
		Fix: "banger daemon stop",
	}}
}

// publish writes the record and opens the gate. An empty socket means that the daemon is
// stopping.
func (l *lock) publish(socket string) error {
	data, err := json.Marshal(api.Record{PID: os.Getpid(), Socket: socket})
	if err != nil {
		return err
	}
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	// Padded to the length of the file, so that one write replaces the record and no
	// reader sees parts of two.
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
