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
		return follow(ctx, path)
	}
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &banger.Error{Kind: banger.NotFound, Why: errors.New("the VM has not been started yet: it has no log"), Fix: "banger vm start " + row.Name}
	}
	return file, err
}

// follower reads a growing file, and what takes its name when it is begun
// anew, until its directory vanishes or it is closed.
type follower struct {
	path  string
	file  *os.File // nil until there is one
	watch *os.File // inotify on the directory
	stop  func() bool
	once  sync.Once
}

func follow(ctx context.Context, path string) (*follower, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVE|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR); err != nil {
		watch.Close()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	f := &follower{path: path, watch: watch}
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
			if f.file != nil {
				f.file.Close()
			}
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
	}
}

func (f *follower) available(p []byte) (int, error) {
	if f.file != nil {
		if n, err := f.file.Read(p); n > 0 || (err != nil && err != io.EOF) {
			return n, err
		}
		if !f.replaced() {
			return 0, nil
		}
		f.file.Close()
		f.file = nil
	}
	file, err := os.Open(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	f.file = file
	n, err := file.Read(p)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// replaced says whether the name now belongs to another file; a file that was
// cut is read again from its start.
func (f *follower) replaced() bool {
	now, err := os.Stat(f.path)
	if err != nil {
		return false
	}
	ours, err := f.file.Stat()
	if err != nil || !os.SameFile(now, ours) {
		return err == nil
	}
	if at, err := f.file.Seek(0, io.SeekCurrent); err == nil && at > now.Size() {
		f.file.Seek(0, io.SeekStart)
	}
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
