package vm

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"banger"
)

// VMLogs implements banger.VMService.
func (v *VMs) VMLogs(ctx context.Context, ref string, opts banger.VMLogs) (io.ReadCloser, error) {
	row, err := v.Store.FindVM(ctx, ref)
	if err != nil {
		return nil, err
	}
	dir := v.Dirs.VM(row.ID)
	path := dir.Console()
	switch opts.Kind {
	case banger.ConsoleLog, "":
	case banger.VMMLog:
		path = dir.VMMLog(row.Driver)
	default:
		return nil, banger.Invalidf("use console or vmm", "there is no log %q", opts.Kind)
	}
	if opts.Follow {
		return follow(ctx, v.logs, path)
	}
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &banger.Error{Kind: banger.NotFound, Why: errors.New("the VM has not been started yet: it has no log"), Fix: "banger vm start " + row.Name}
	}
	if err != nil {
		return nil, err
	}
	return &logReader{logs: v.logs, path: path, file: file}, nil
}

// logReader reads a log to its end, also while its front is cut off.
type logReader struct {
	logs *vmmLogs
	path string
	file *os.File
	log  *vmmLog // nil as long as nothing can have been cut
	at   int64   // where it reads, counting what was cut
}

func (r *logReader) Close() error { return r.file.Close() }

// Read returns what was not cut before it was read.
func (r *logReader) Read(p []byte) (int, error) {
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

// rewind begins again if the file was made shorter by somebody else.
func (r *logReader) rewind() {
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

// follower reads a growing file, and what takes its name when it is begun
// anew, until its directory vanishes or it is closed.
type follower struct {
	logs  *vmmLogs
	path  string
	log   *logReader // nil until there is one
	watch *os.File   // inotify on the directory
	stop  func() bool
	once  sync.Once
}

func follow(ctx context.Context, logs *vmmLogs, path string) (*follower, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVE|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR); err != nil {
		watch.Close()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	f := &follower{logs: logs, path: path, watch: watch}
	f.stop = context.AfterFunc(ctx, func() { f.Close() })
	return f, nil
}

func (f *follower) Close() error {
	f.once.Do(func() {
		f.stop()
		f.watch.Close() // wakes a Read that waits
	})
	return nil
}

// Read returns what is there, and waits for more when nothing is.
func (f *follower) Read(p []byte) (int, error) {
	events := make([]byte, 4096)
	for {
		if n, err := f.available(p); n > 0 || err != nil {
			return n, err
		}
		n, err := f.watch.Read(events)
		if errors.Is(err, os.ErrClosed) || (err == nil && gone(events[:n])) {
			if f.log != nil {
				f.log.Close()
			}
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
	}
}

func (f *follower) available(p []byte) (int, error) {
	if f.log != nil {
		whole := f.replaced() // asked first: nothing is written to a log that was put aside
		if n, err := f.log.Read(p); n > 0 || err != io.EOF {
			return n, err
		}
		if !whole {
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
	f.log = &logReader{logs: f.logs, path: f.path, file: file}
	n, err := f.log.Read(p)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// replaced says whether the name now belongs to another file.
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

// gone looks for the end of the directory among inotify events.
func gone(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := uint32(events[4]) | uint32(events[5])<<8 | uint32(events[6])<<16 | uint32(events[7])<<24
		length := int(events[12]) | int(events[13])<<8 | int(events[14])<<16
		if mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED) != 0 {
			return true
		}
		events = events[min(unix.SizeofInotifyEvent+length, len(events)):]
	}
	return false
}
