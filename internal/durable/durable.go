// Package durable writes files and names so that they survive a power cut of the host:
// first the content, then the name. Files that need not survive do not use it.
package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Watch, if set, is called with each action and its path: "synced" for a file or
// directory, "all synced" for the file system of the path, and "naming" before a rename.
// Tests use it to model the disk.
var Watch atomic.Pointer[func(what, path string)]

func tell(what, path string) {
	if watch := Watch.Load(); watch != nil {
		(*watch)(what, path)
	}
}

// Sync writes the content of a file, or the names in a directory, to the disk.
func Sync(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(sync(file), file.Close())
}

func sync(file *os.File) error {
	if err := file.Sync(); err != nil {
		return err
	}
	tell("synced", file.Name())
	return nil
}

// SyncAll writes everything on the file system of path to the disk.
func SyncAll(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Syncfs(int(file.Fd())); err != nil {
		return &fs.PathError{Op: "sync", Path: path, Err: err}
	}
	tell("all synced", path)
	return nil
}

// Rename renames from, which must be on the disk, durably.
func Rename(from, to string) error {
	tell("naming", from)
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncParents(to, from)
}

// Exchange swaps the names a and b durably.
func Exchange(a, b string) error {
	tell("naming", a)
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return syncParents(a, b)
}

func syncParents(a, b string) error {
	if err := Sync(filepath.Dir(a)); err != nil || filepath.Dir(a) == filepath.Dir(b) {
		return err
	}
	return Sync(filepath.Dir(b))
}

// Write creates or replaces a file, wholly or not at all. fill writes to a temporary file
// beside it, whose name begins with a dot and the file's own name.
func Write(path string, mode fs.FileMode, fill func(*os.File) error) (err error) {
	aside, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".") // 0600
	if err != nil {
		return err
	}
	defer func() {
		aside.Close()
		if err != nil {
			os.Remove(aside.Name())
		}
	}()
	if err := fill(aside); err != nil {
		return err
	}
	if err := aside.Chmod(mode); err != nil {
		return err
	}
	if err := sync(aside); err != nil {
		return err
	}
	return Rename(aside.Name(), path)
}

// WriteFile is Write for data in memory.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	return Write(path, mode, func(file *os.File) error {
		_, err := bytes.NewReader(data).WriteTo(file)
		return err
	})
}

// MkdirAll creates a directory and its missing parents durably.
func MkdirAll(path string, mode fs.FileMode) error {
	if _, err := os.Stat(path); err == nil {
		return os.MkdirAll(path, mode) // an error if it is not a directory
	}
	above := filepath.Dir(path)
	if err := MkdirAll(above, mode); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return Sync(above)
}
