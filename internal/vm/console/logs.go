package console

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"banger/internal/linux"

	"golang.org/x/sys/unix"

	"banger"
)

const (
	// MaxSize is the size above which a log is cut: a guest can write to its
	// console as long and as fast as it likes.
	MaxSize = 4 * banger.MiB
	// KeptSize is how much of a log's end a cut keeps: more than wordsTail.
	KeptSize = 1 * banger.MiB
	// pause is the least time between two looks at the logs, for guests that do
	// not stop writing.
	pause = 200 * time.Millisecond
)

// Logs keeps the logs of running VMs bounded, and reads them while they are
// cut. A log is cut in place, since its VMM holds it open.
type Logs struct {
	written chan struct{} // one of the logs was written to

	mu   sync.Mutex
	logs map[string]*log // by path
}

// log is one bounded file. It ends when another file takes its path.
type log struct {
	path    string
	info    os.FileInfo
	unwatch func()

	size    int64  // at the last look
	written func() // may be nil

	mu  sync.RWMutex // locked for writing during a cut
	cut int64        // how many bytes were cut off the front so far
}

// NewLogs returns Logs without a log. Run must be called: it does the work.
func NewLogs() *Logs { return &Logs{written: make(chan struct{}, 1), logs: map[string]*log{}} }

// Run cuts logs that become too large, until ctx ends. Then no log is bounded any
// more. It calls report with every error.
func (l *Logs) Run(ctx context.Context, report func(error)) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		for path := range l.logs {
			l.drop(path)
		}
	}()
	for {
		select {
		case <-l.written:
		case <-ctx.Done():
			return
		}
		l.mu.Lock()
		for _, log := range l.logs {
			if err := log.look(); err != nil {
				report(err)
			}
		}
		l.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// Bound keeps the file at path bounded from now on, and cuts it at once if it
// is too large. Unless it is nil, written is called after writes to the file; it
// must not block.
func (l *Logs) Bound(path string, written func()) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(path)
	log := &log{path: path, info: info, written: written}
	if log.unwatch, err = linux.Watch(path, unix.IN_MODIFY, l.written); err != nil {
		return err
	}
	l.logs[path] = log
	return log.look()
}

// Forget no longer bounds the logs in a directory.
func (l *Logs) Forget(dir string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for path := range l.logs {
		if filepath.Dir(path) == dir {
			l.drop(path)
		}
	}
}

// Paths returns the paths of all bounded logs.
func (l *Logs) Paths() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.logs))
}

// drop ends the watch of a log. The caller holds mu.
func (l *Logs) drop(path string) {
	if log, ok := l.logs[path]; ok {
		log.unwatch()
		delete(l.logs, path)
	}
}

// of returns the log that an open file is, or nil if it is not bounded.
func (l *Logs) of(path string, file *os.File) *log {
	l.mu.Lock()
	log := l.logs[path]
	l.mu.Unlock()
	if log == nil {
		return nil
	}
	if info, err := file.Stat(); err != nil || !os.SameFile(info, log.info) {
		return nil
	}
	return log
}

// look calls written if the size has changed, and cuts the log if it is too
// large. It ignores a log that was removed or replaced by another file.
func (l *log) look() error {
	info, err := os.Stat(l.path)
	if err != nil || !os.SameFile(info, l.info) {
		return nil
	}
	if l.written != nil && info.Size() != l.size {
		l.written()
	}
	l.size = info.Size()
	if banger.Size(info.Size()) <= MaxSize {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	file, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	cut, err := cutFront(file, int64(KeptSize))
	l.cut += cut
	return errors.Join(err, file.Close())
}

// cutFront keeps about kept bytes at the end of a file that others append to,
// and returns how many bytes it has cut off the front. File systems that can
// remove blocks (ext4, XFS) do it at once and lose nothing. On others the end is
// copied to the front; bytes appended in the microseconds between the last read
// and the truncation are lost.
func cutFront(file *os.File, kept int64) (int64, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return 0, err
	}
	block := int64(stat.Blksize)
	front := (stat.Size - kept) / block * block
	if front <= 0 {
		return 0, nil
	}
	if unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, front) == nil {
		return front, nil
	}
	return moveFront(file, front)
}

// moveFront copies everything after the first front bytes to the start of the
// file, and truncates it there.
func moveFront(file *os.File, front int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := file.ReadAt(buf, front+at)
		if n == 0 && err == io.EOF {
			return front, file.Truncate(at)
		}
		if n == 0 {
			return 0, err
		}
		if _, err := file.WriteAt(buf[:n], at); err != nil {
			return 0, err
		}
		at += int64(n)
	}
}
