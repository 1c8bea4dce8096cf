package mount

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/durable"
)

// seed makes target a copy of the directory source, once. The copy is made aside
// and renamed when all of it is on disk: target exists in full or not at all, and
// later boots leave it alone.
func seed(source, target string) error {
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	aside := target + ".seeding"
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("seed %s: %w", filepath.Base(target), err)
	}
	c := copier{links: map[[2]uint64]string{}}
	if err := c.copy(source, aside); err != nil {
		return fmt.Errorf("seed %s: %w", filepath.Base(target), err)
	}
	if err := durable.SyncAll(aside); err != nil {
		return fmt.Errorf("seed %s: %w", filepath.Base(target), err)
	}
	return durable.Rename(aside, target)
}

// copier copies a tree with owners, modes, times, links and attributes.
type copier struct {
	links map[[2]uint64]string // first copy of a file with several names
}

func (c *copier) copy(source, target string) error {
	var st unix.Stat_t
	if err := unix.Lstat(source, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: source, Err: err}
	}
	key := [2]uint64{uint64(st.Dev), st.Ino}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return nil
	}
	if first, ok := c.links[key]; ok {
		return os.Link(first, target)
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		c.links[key] = target
	}
	if err := c.make(source, target, kind, &st); err != nil {
		return err
	}
	return dress(source, target, kind, &st)
}

func (c *copier) make(source, target string, kind uint32, st *unix.Stat_t) error {
	switch kind {
	case unix.S_IFDIR:
		return c.copyDir(source, target)
	case unix.S_IFREG:
		return CopyFile(source, target)
	case unix.S_IFLNK:
		to, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(to, target)
	}
	if err := unix.Mknod(target, kind|0o600, int(st.Rdev)); err != nil {
		return &fs.PathError{Op: "mknod", Path: target, Err: err}
	}
	return nil
}

func (c *copier) copyDir(source, target string) error {
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.copy(filepath.Join(source, e.Name()), filepath.Join(target, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// CopyFile copies a file to target, which must not exist.
func CopyFile(source, target string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// dress gives target the owner, mode, attributes and times of source. No step
// undoes an earlier one in this order.
func dress(source, target string, kind uint32, st *unix.Stat_t) error {
	if err := unix.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
		return &fs.PathError{Op: "chown", Path: target, Err: err}
	}
	if kind != unix.S_IFLNK {
		if err := unix.Chmod(target, st.Mode&0o7777); err != nil {
			return &fs.PathError{Op: "chmod", Path: target, Err: err}
		}
	}
	if err := copyAttributes(source, target); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, target, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set times", Path: target, Err: err}
	}
	return nil
}

// copyAttributes copies the extended attributes, except those of overlayfs.
func copyAttributes(source, target string) error {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(source, list)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "list attributes", Path: source, Err: err}
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		size, err := unix.Lgetxattr(source, name, value)
		if err != nil {
			continue
		}
		if err := unix.Lsetxattr(target, name, value[:size], 0); err != nil && err != unix.ENOTSUP {
			return &fs.PathError{Op: "set attribute " + name, Path: target, Err: err}
		}
	}
	return nil
}
