// Package inroot opens, reads and writes files below an image's root. It follows
// the image's links as if root were "/": no link leads out. It does not know what
// the files mean.
package inroot

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/durable"
	"banger/internal/linux"
)

// Open opens path inside root.
func Open(root, path string, flags int) (*os.File, error) {
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

// Dir opens a directory inside root and creates the missing parts of its path.
func Dir(root, path string, mode os.FileMode) (*os.File, error) {
	at := "/"
	for _, name := range strings.Split(strings.Trim(filepath.Clean(path), "/"), "/") {
		parent, err := Open(root, at, unix.O_PATH|unix.O_DIRECTORY)
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
	return Open(root, at, unix.O_RDONLY|unix.O_DIRECTORY)
}

// Resolve returns path with the image's links resolved.
func Resolve(root, path string) string {
	f, err := Open(root, path, unix.O_PATH)
	if err != nil {
		return path
	}
	defer f.Close()
	real, err := os.Readlink(linux.Through(f))
	if err != nil {
		return path
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(real, root), "/")
}

// Exists reports whether path exists inside root.
func Exists(root, path string) bool {
	f, err := Open(root, path, unix.O_PATH)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// MaxRead is the size of the largest file that Read returns. A larger one is an error.
const MaxRead = 1 << 20

// Read reads a small file inside root; a missing file is empty.
func Read(root, path string) ([]byte, error) {
	f, err := Open(root, path, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, MaxRead+1))
	if err == nil && len(content) > MaxRead {
		return nil, &os.PathError{Op: "read", Path: path, Err: unix.EFBIG}
	}
	return content, err
}

// Write makes path inside root a regular file with this content. A file that
// already has it stays as it is. A link at path is replaced, not followed.
func Write(root, path string, content []byte, mode os.FileMode) error {
	old, err := Read(root, path)
	if err == nil && old != nil && bytes.Equal(old, content) {
		return nil
	}
	next, err := stage(root, path, content, mode, nil)
	if err != nil {
		return err
	}
	defer next.dir.Close()
	// A crash must not lose what the file held before: the next boot may not be
	// able to write that again.
	if len(old) > 0 {
		if err := durable.Sync(linux.Through(next.dir, next.aside)); err != nil {
			return err
		}
	}
	return next.place()
}

// Change is the new content of a file.
type Change struct {
	Path    string
	Content []byte
}

// Update gives regular files inside root new content, in this order. Their owners and
// modes stay. Everything is on the disk before the first file changes.
func Update(root string, changes []Change) error {
	var all []staged
	defer func() {
		for _, next := range all {
			next.dir.Close()
		}
	}()
	for _, c := range changes {
		st, err := statRegular(root, c.Path)
		if err != nil {
			return err
		}
		next, err := stage(root, c.Path, c.Content, os.FileMode(st.Mode&0o777), &st)
		if err != nil {
			return err
		}
		all = append(all, next)
	}
	if len(all) > 0 {
		if err := durable.SyncAll(linux.Through(all[0].dir, ".")); err != nil {
			return err
		}
	}
	for _, next := range all {
		if err := next.place(); err != nil {
			return err
		}
	}
	return nil
}

func statRegular(root, path string) (st unix.Stat_t, err error) {
	f, err := Open(root, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return st, err
	}
	defer f.Close()
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.EINVAL
	}
	if err != nil {
		err = &os.PathError{Op: "change", Path: path, Err: err}
	}
	return st, err
}

// staged is a file that is complete, and does not have its name yet.
type staged struct {
	dir               *os.File
	aside, name, path string
}

// stage writes a file beside path. The owner is the agent's user if there is none.
func stage(root, path string, content []byte, mode os.FileMode, owner *unix.Stat_t) (_ staged, err error) {
	dir, err := Dir(root, filepath.Dir(path), 0o755)
	if err != nil {
		return staged{}, err
	}
	name := filepath.Base(path)
	next := staged{dir, "." + name + ".banger", name, path}
	defer func() {
		if err != nil {
			dir.Close()
		}
	}()
	fd, err := unix.Openat(int(dir.Fd()), next.aside, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return staged{}, &os.PathError{Op: "create", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	_, err = f.Write(content)
	if owner != nil {
		err = errors.Join(err, f.Chown(int(owner.Uid), int(owner.Gid)))
	}
	return next, errors.Join(err, f.Chmod(mode), f.Close())
}

// place gives the file its name.
func (s staged) place() error {
	dir := int(s.dir.Fd())
	if err := unix.Renameat(dir, s.aside, dir, s.name); err != nil {
		return &os.PathError{Op: "rename", Path: s.path, Err: err}
	}
	return nil
}

// HasName reports whether path exists inside root, even as a link to nowhere.
func HasName(root, path string) bool {
	f, err := Open(root, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// IsLink reports whether path inside root is a symbolic link.
func IsLink(root, path string) bool {
	f, err := Open(root, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false
	}
	defer f.Close()
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// maxLinks bounds how many links FollowLink follows, as the kernel does (ELOOP).
const maxLinks = 40

// FollowLink returns where the link at path inside root leads to, whether or not
// something is there, and reports whether there is a link at path.
func FollowLink(root, path string) (target string, isLink bool) {
	target = path
	for range maxLinks {
		f, err := Open(root, target, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			break
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(f.Fd()), "", buf)
		f.Close()
		if err != nil {
			break
		}
		isLink = true
		next := string(buf[:n])
		if !filepath.IsAbs(next) {
			next = filepath.Join(filepath.Dir(target), next)
		}
		target = filepath.Clean(next)
	}
	return target, isLink
}
