package vm

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
)

const (
	// mostLog is how large a log that a VMM writes may become: a guest can
	// write to its console as long and as fast as it likes.
	mostLog = 4 * banger.MiB
	// keptLog is what is kept of its end when it is cut: more than consoleTail.
	keptLog = 1 * banger.MiB
	// looksApart is how long a guest that does not stop writing is left alone
	// between two looks at the size of its log.
	looksApart = 200 * time.Millisecond
)

// vmmLogs keeps the logs of running VMs bounded: the kernel tells it of what is
// written to them. A log is cut in place, since its VMM holds it open.
type vmmLogs struct {
	watch *os.File // inotify; one for all, since a user may have few

	mu   sync.Mutex
	logs map[string]*vmmLog // by path
}

// vmmLog is one of them, for as long as no other file takes its path.
type vmmLog struct {
	path  string
	info  os.FileInfo
	watch int

	size    int64  // when it was last looked at
	written func() // called when it has another size, and must not block; may be nil

	mu  sync.RWMutex // held for writing while it is cut
	cut int64        // how much was cut off its front
}

func watchLogs() (*vmmLogs, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &vmmLogs{watch: os.NewFile(uintptr(fd), "inotify"), logs: map[string]*vmmLog{}}, nil
}

// bound keeps the file at path bounded from now on. written, unless it is nil, is
// called when something was written to it.
func (l *vmmLogs) bound(path string, written func()) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(path)
	log := &vmmLog{path: path, info: info, written: written}
	err = l.control(func(fd int) (err error) {
		log.watch, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY)
		return os.NewSyscallError("inotify_add_watch", err)
	})
	if err != nil {
		return err
	}
	l.logs[path] = log
	return log.look()
}

// forget lets go of the logs of a VM.
func (l *vmmLogs) forget(dir config.VMDir) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for path := range l.logs {
		if filepath.Dir(path) == string(dir) {
			l.drop(path)
		}
	}
}

// drop ends the watch of a log. The caller holds mu.
func (l *vmmLogs) drop(path string) {
	if log, ok := l.logs[path]; ok {
		l.control(func(fd int) error {
			unix.InotifyRmWatch(fd, uint32(log.watch)) // it may have gone with its file
			return nil
		})
		delete(l.logs, path)
	}
}

// control calls f with the descriptor; Fd would make reading from it block.
func (l *vmmLogs) control(f func(fd int) error) error {
	raw, err := l.watch.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(failed, err)
}

// of is the log that an open file is, or nil when it is none that is bounded.
func (l *vmmLogs) of(path string, file *os.File) *vmmLog {
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

// tend looks at the logs when something was written, until ctx ends. report is
// told what goes wrong.
func (l *vmmLogs) tend(ctx context.Context, report func(error)) {
	defer l.watch.Close()
	defer context.AfterFunc(ctx, func() { l.watch.SetReadDeadline(time.Unix(1, 0)) })()
	events := make([]byte, 256<<10) // all that the kernel keeps: which log does not matter
	for {
		if _, err := l.watch.Read(events); err != nil {
			if ctx.Err() == nil {
				report(err)
			}
			return
		}
		l.mu.Lock()
		for _, log := range l.logs {
			if err := log.look(); err != nil {
				report(err)
			}
		}
		l.mu.Unlock()
		if !wait(ctx, looksApart) {
			return
		}
	}
}

// look tells of what was written to the log, and cuts it if it has become too large. One that was removed, or whose
// name has another file by now, is none of ours.
func (l *vmmLog) look() error {
	info, err := os.Stat(l.path)
	if err != nil || !os.SameFile(info, l.info) {
		return nil
	}
	if l.written != nil && info.Size() != l.size {
		l.written()
	}
	l.size = info.Size()
	if banger.Size(info.Size()) <= mostLog {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	file, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	cut, err := cutFront(file, int64(keptLog))
	l.cut += cut
	return errors.Join(err, file.Close())
}

// cutFront leaves about kept bytes at the end of a file that others append to,
// and returns how many it has cut off the front. Where the file system can
// (ext4, XFS), that takes a moment and loses nothing. Elsewhere the end is
// copied to the front; what is appended between the last look at it and the
// cut, some microseconds, is lost.
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

// moveFront copies what is behind front to the start, and cuts off the rest.
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
