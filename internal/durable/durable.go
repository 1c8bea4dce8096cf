// Package durable brings files and names onto the disk, so that they are there
// after the host's power was cut: content first, then the name that leads to
// it. What need not outlive the host does not go through here.
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

// Watch, when set, is told what is done: "synced" of a file or a directory,
// "all synced" of a file system by a path on it, and "naming", before it is
// done, of what gets its name. Tests use it to know what is on the disk.
var Watch atomic.Pointer[func(what, path string)]

func tell(what, path string) {
	if watch := Watch.Load(); watch != nil {
		(*watch)(what, path)
	}
}

// Sync brings the content of a file onto the disk, or the names in a directory.
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

// SyncAll does so with everything on the file system that path is on.
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

// Rename gives what is on the disk at from the name to, for good.
func Rename(from, to string) error {
	tell("naming", from)
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncParents(to, from)
}

// Exchange is Rename to a name that another has, which then has a's.
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

// Write makes a file that is there whole or not at all: it grows aside, under a
// name that begins with a dot and the file's own, and replaces what was there.
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

// WriteFile is Write for content that is at hand.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	return Write(path, mode, func(file *os.File) error {
		_, err := bytes.NewReader(data).WriteTo(file)
		return err
	})
}

// MkdirAll makes a directory and those above it that are missing.
func MkdirAll(path string, mode fs.FileMode) error {
	if _, err := os.Stat(path); err == nil {
		return os.MkdirAll(path, mode) // an error where it is no directory
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
