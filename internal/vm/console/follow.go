package console

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"banger/internal/linux"

	"golang.org/x/sys/unix"
)

// Open returns a reader of the log at path, to its present end. What is cut off
// while it reads is skipped.
func (l *Logs) Open(path string) (io.ReadCloser, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &reader{logs: l, path: path, file: file}, nil
}

// Follow returns a reader of the log at path that waits for more at its end,
// also for the first file at path, and continues with the file that replaces
// it. It ends when the directory is removed or renamed, when it is closed, or
// with ctx.
func (l *Logs) Follow(ctx context.Context, path string) (io.ReadCloser, error) {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	f := &follower{logs: l, path: path, dir: dir, changed: make(chan struct{}, 1), closed: make(chan struct{})}
	f.unwatch, err = linux.Watch(filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVE|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR, f.changed)
	if err != nil {
		return nil, err
	}
	f.stop = context.AfterFunc(ctx, f.end)
	return f, nil
}

// reader reads a log to its end, also while its front is cut off.
type reader struct {
	logs *Logs
	path string
	file *os.File
	log  *log  // nil until the file is found to be bounded
	at   int64 // the offset to read next, counting what was cut
}

func (r *reader) Close() error { return r.file.Close() }

// Read returns what was not cut before it was read.
func (r *reader) Read(p []byte) (int, error) {
	if r.log == nil {
		r.log = r.logs.of(r.path, r.file)
	}
	cut := int64(0)
	if r.log != nil {
		r.log.mu.RLock()
		defer r.log.mu.RUnlock()
		cut = r.log.cut
	}
	r.at = max(r.at, cut)
	n, err := r.file.ReadAt(p, r.at-cut)
	r.at += int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// rewind returns to the start if someone else has truncated the file.
func (r *reader) rewind() {
	if r.log != nil {
		r.log.mu.RLock()
		defer r.log.mu.RUnlock()
		r.at -= r.log.cut
		defer func() { r.at += r.log.cut }()
	}
	if info, err := r.file.Stat(); err == nil && r.at > info.Size() {
		r.at = 0
	}
}

// follower is what Follow returns.
type follower struct {
	logs    *Logs
	path    string
	dir     os.FileInfo   // of its directory
	log     *reader       // nil while there is no file
	changed chan struct{} // something happened in the directory
	closed  chan struct{}
	unwatch func()
	stop    func() bool
	once    sync.Once
}

func (f *follower) Close() error {
	f.stop()
	f.end()
	return nil
}

// end ends a Read that waits, and those that follow.
func (f *follower) end() {
	f.once.Do(func() {
		f.unwatch()
		close(f.closed)
	})
}

// Read returns what is there, and otherwise waits for more.
func (f *follower) Read(p []byte) (int, error) {
	for {
		gone := f.gone() // asked first: nothing is written after that
		if n, err := f.available(p); n > 0 || err != nil {
			return n, err
		}
		closed := gone
		if !gone {
			select {
			case <-f.changed:
			case <-f.closed:
				closed = true
			}
		}
		if closed {
			if f.log != nil {
				f.log.Close()
			}
			return 0, io.EOF
		}
	}
}

// gone reports whether the directory was removed or renamed.
func (f *follower) gone() bool {
	now, err := os.Stat(filepath.Dir(f.path))
	return err != nil || !os.SameFile(now, f.dir)
}

func (f *follower) available(p []byte) (int, error) {
	if f.log != nil {
		complete := f.replaced() // before the read: a log that was replaced does not grow
		if n, err := f.log.Read(p); n > 0 || err != io.EOF {
			return n, err
		}
		if !complete {
			return 0, nil
		}
		f.log.Close()
		f.log = nil
	}
	file, err := os.Open(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f.log = &reader{logs: f.logs, path: f.path, file: file}
	n, err := f.log.Read(p)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// replaced reports whether another file now has the path.
func (f *follower) replaced() bool {
	now, err := os.Stat(f.path)
	if err != nil {
		return false
	}
	ours, err := f.log.file.Stat()
	if err != nil || !os.SameFile(now, ours) {
		return err == nil
	}
	f.log.rewind()
	return false
}
