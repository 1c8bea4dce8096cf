package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/durable"
)

// openIn opens path inside root, following the image's links as if root were
// the root: an absolute link cannot lead out.
func openIn(root, path string, flags int) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// dirIn opens a directory inside root and makes what is missing of its path.
func dirIn(root, path string, mode os.FileMode) (*os.File, error) {
	at := "/"
	for _, name := range strings.Split(strings.Trim(filepath.Clean(path), "/"), "/") {
		parent, err := openIn(root, at, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		err = unix.Mkdirat(int(parent.Fd()), name, uint32(mode.Perm()))
		parent.Close()
		if err != nil && err != unix.EEXIST {
			return nil, &os.PathError{Op: "mkdir", Path: filepath.Join(at, name), Err: err}
		}
		at = filepath.Join(at, name)
	}
	return openIn(root, at, unix.O_RDONLY|unix.O_DIRECTORY)
}

// through is a path to what f is open on, also where no other path leads.
func through(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// resolveIn is path without the image's links.
func resolveIn(root, path string) string {
	f, err := openIn(root, path, unix.O_PATH)
	if err != nil {
		return path
	}
	defer f.Close()
	real, err := os.Readlink(through(f))
	if err != nil {
		return path
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(real, root), "/")
}

// existsIn says whether path is there inside root.
func existsIn(root, path string) bool {
	f, err := openIn(root, path, unix.O_PATH)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// maxSmall is the most that readIn reads: all of a file or nothing.
const maxSmall = 1 << 20

// readIn reads a small file inside root; a missing one is empty.
func readIn(root, path string) ([]byte, error) {
	f, err := openIn(root, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	if err == nil && len(content) > maxSmall {
		return nil, &os.PathError{Op: "read", Path: path, Err: unix.EFBIG}
	}
	return content, err
}

// writeIn makes path inside root a regular file with this content, unless it
// already reads the same. A link at path is replaced, not followed.
func writeIn(root, path string, content []byte, mode os.FileMode) error {
	old, err := readIn(root, path)
	if err == nil && old != nil && bytes.Equal(old, content) {
		return nil
	}
	dir, err := dirIn(root, filepath.Dir(path), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	name := filepath.Base(path)
	next := "." + name + ".banger"
	fd, err := unix.Openat(int(dir.Fd()), next, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	// What it replaces may be more than the next boot can write again.
	if len(old) > 0 {
		if err := durable.Sync(through(dir) + "/" + next); err != nil {
			return err
		}
	}
	if err := unix.Renameat(int(dir.Fd()), next, int(dir.Fd()), name); err != nil {
		return &os.PathError{Op: "rename", Path: path, Err: err}
	}
	return nil
}
