package linux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrLocked means that another process, or another open file, has the lock.
var ErrLocked = errors.New("the lock is held")

// ErrFree means that the lock is free.
var ErrFree = errors.New("the lock is free")

// A lock belongs to the open file: a process that inherits the descriptor has the lock,
// too, and the lock is free when all of them have closed the file. It is two bytes of the
// file, which may be empty. The first byte is the lock. The second is always locked with
// it, and is for AwaitFree, which locks and unlocks only the second for a moment: so it
// never makes a TryLock fail.
const (
	lockByte = 0
	endByte  = 1
)

// ofd does one operation on one byte of an open file. It returns ErrLocked if somebody
// else has the byte and the operation does not wait.
func ofd(file *os.File, command int, kind int16, at int64) (unix.Flock_t, error) {
	lock := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: at, Len: 1}
	err := error(unix.EINTR)
	failed := control(file, func(fd int) { // and so the file can be closed meanwhile
		for errors.Is(err, unix.EINTR) {
			err = unix.FcntlFlock(uintptr(fd), command, &lock)
		}
	})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return lock, ErrLocked
	}
	return lock, errors.Join(failed, os.NewSyscallError("fcntl", err))
}

// TryLock takes the lock of a file that is open for writing, or returns ErrLocked.
func TryLock(file *os.File) error {
	if _, err := ofd(file, unix.F_OFD_SETLK, unix.F_WRLCK, lockByte); err != nil {
		return err
	}
	_, err := ofd(file, unix.F_OFD_SETLKW, unix.F_WRLCK, endByte)
	return err
}

// WaitLock takes the lock of a file that is open for writing, and waits for it within
// ctx.
func WaitLock(ctx context.Context, file *os.File) error {
	each := func(command int, kind int16) error {
		for _, at := range []int64{lockByte, endByte} {
			if _, err := ofd(file, command, kind, at); err != nil {
				return err
			}
		}
		return nil
	}
	return wait(ctx, func() error { return each(unix.F_OFD_SETLKW, unix.F_WRLCK) }, func() { each(unix.F_OFD_SETLK, unix.F_UNLCK) })
}

// wait returns what f does, or the end of ctx. A system call cannot be called back:
// one that succeeds too late is undone.
func wait(ctx context.Context, f func() error, undo func()) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		go func() {
			if <-done == nil {
				undo()
			}
		}()
		return ctx.Err()
	}
}

// Locked reports whether somebody has the lock of the file at path, without taking it.
// The lock of a file that does not exist is free.
func Locked(path string) (bool, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	lock, err := ofd(file, unix.F_OFD_GETLK, unix.F_WRLCK, lockByte)
	return lock.Type != unix.F_UNLCK, err
}

// AwaitFree waits, within ctx, until the lock is free of the file at path, which
// need not exist.
func AwaitFree(ctx context.Context, path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return wait(ctx, func() error {
		defer file.Close()
		if _, err := ofd(file, unix.F_OFD_SETLKW, unix.F_WRLCK, endByte); err != nil {
			return err
		}
		// Not only closed: a child that was forked just now has a copy.
		_, err := ofd(file, unix.F_OFD_SETLK, unix.F_UNLCK, endByte)
		return err
	}, func() {})
}

// Holder returns a process, other than this one, that has the lock of the file at path.
// It returns ErrFree if there is none, or none that this user can see: a process that is
// ending shows no files. It reads /proc, so that no pid needs to be stored.
func Holder(path string) (pid int, err error) {
	file, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrFree
	}
	if err != nil {
		return 0, err
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err == nil && pid != os.Getpid() && holds(pid, file) {
			return pid, nil
		}
	}
	return 0, ErrFree
}

// holds reports whether a process has the file open in a way that has the lock: one
// that only reads the file, as a backup does, has an open file of its own.
func holds(pid int, want os.FileInfo) bool {
	process := filepath.Join("/proc", strconv.Itoa(pid))
	names, err := os.ReadDir(filepath.Join(process, "fd"))
	if err != nil {
		return false // another user's process, or one that has just ended
	}
	for _, fd := range names {
		if got, err := os.Stat(filepath.Join(process, "fd", fd.Name())); err != nil || !os.SameFile(got, want) {
			continue
		}
		// The kernel lists the locks of this open file, whichever process took them.
		if info, err := os.ReadFile(filepath.Join(process, "fdinfo", fd.Name())); err == nil && bytes.Contains(info, []byte(" OFDLCK ")) {
			return true
		}
	}
	return false
}

// WaitFlock takes the older kind of lock, of files and directories that cannot be
// open for writing, and waits for it within ctx.
func WaitFlock(ctx context.Context, file *os.File) error {
	flock := func(how int) error {
		err := error(unix.EINTR)
		failed := control(file, func(fd int) { // and so the file can be closed meanwhile
			for errors.Is(err, unix.EINTR) {
				err = unix.Flock(fd, how)
			}
		})
		return errors.Join(failed, os.NewSyscallError("flock", err))
	}
	return wait(ctx, func() error { return flock(unix.LOCK_EX) }, func() { flock(unix.LOCK_UN) })
}
