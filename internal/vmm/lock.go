package vmm

import (
	"errors"
	"fmt"
	"os"

	"banger/internal/linux"
)

// ErrLocked means that a VMM runs: it holds the VM's lock.
var ErrLocked = errors.New("a VMM holds the VM's lock")

// ErrGone means that no VMM runs: the VM's lock is free.
var ErrGone = errors.New("no VMM holds the VM's lock")

// Lock takes the lock of a VM, or returns ErrLocked. The lock belongs to the open
// file: a VMM that inherits the descriptor holds it until the VMM ends. Close the file
// to release it.
func Lock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := linux.TryLock(file); err != nil {
		file.Close()
		if errors.Is(err, linux.ErrLocked) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

// Locked reports whether a VMM holds the lock at path. It does not take the lock, so
// that a start meanwhile does not fail.
func Locked(path string) (bool, error) { return linux.Locked(path) }

// Holder returns the process, other than this one, that holds the lock at path, or
// ErrGone. Only adoption needs it.
func Holder(path string) (int, error) {
	pid, err := linux.Holder(path)
	if errors.Is(err, linux.ErrFree) {
		err = ErrGone
	}
	return pid, err
}
