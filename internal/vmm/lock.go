package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrLocked means that a VMM lives: it holds the VM's lock.
var ErrLocked = errors.New("a VMM holds the VM's lock")

// ErrGone means that no VMM lives: the VM's lock is free.
var ErrGone = errors.New("no VMM holds the VM's lock")

// Lock takes the lock of a VM. The lock belongs to the open file: a VMM that
// inherits the descriptor holds it until the VMM ends, whoever else dies. Close
// the file to let go. ErrLocked says that somebody else holds it.
func Lock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

// Locked says whether a VMM holds the lock at path. A lock file that does not
// exist is free.
func Locked(path string) (bool, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	// A child forked meanwhile would carry our descriptor until its exec, and
	// make the lock look held for that long.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	file, err := Lock(path)
	if errors.Is(err, ErrLocked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, file.Close()
}

// Holder returns the process, other than this one, that holds the lock at path, or
// ErrGone. It reads /proc, so that nothing about a running VM need be written down.
// Only adoption needs it.
func Holder(path string) (int, error) {
	want, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, ErrGone
	}
	if err != nil {
		return 0, err
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, proc := range procs {
		pid, err := strconv.Atoi(proc.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if holds(pid, want) {
			return pid, nil
		}
	}
	return 0, ErrGone
}

// holds says whether a process has a lock's file open by a descriptor that has the
// lock: who only reads the file, as a backup does, is no VMM.
func holds(pid int, want os.FileInfo) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	names, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return false // another user's process, or one that has just ended
	}
	for _, fd := range names {
		if got, err := os.Stat(filepath.Join(proc, "fd", fd.Name())); err != nil || !os.SameFile(got, want) {
			continue
		}
		// Whoever took it: the lock belongs to the open file.
		if info, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd.Name())); err == nil && bytes.Contains(info, []byte(" FLOCK ")) {
			return true
		}
	}
	return false
}
