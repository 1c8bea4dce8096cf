package export

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/wire"
)

// databases are the files in which package managers list what is installed.
var databases = []string{"var/lib/dpkg/status", "lib/apk/db/installed", "usr/lib/apk/db/installed"}

// lists is where dpkg keeps the lists of the packages' files.
const lists = "var/lib/dpkg/info"

// maxDatabase bounds the text of a database.
const maxDatabase = 32 << 20

// sendChanges sends what differs from the image. Both disks are mounted once more, in a
// namespace of this process, which has nothing else to do.
func sendChanges(out io.Writer, request wire.Export) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the other mounts: %w", err)
	}
	devices := disk.Devices()
	base, upper := layout.RunDir+"/base", layout.RunDir+"/changes"
	for _, m := range []struct {
		label, at string
		flags     uintptr
	}{{wire.LabelBase, base, unix.MS_RDONLY}, {wire.LabelOverlay, upper, 0}} {
		if err := os.MkdirAll(m.at, 0o700); err != nil {
			return err
		}
		if err := unix.Mount(devices[m.label], m.at, "ext4", m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.label, err)
		}
	}
	c := &comparison{base: base, upper: upper + "/upper", skip: request.Skip, out: bufio.NewWriterSize(out, 64<<10)}
	return c.send()
}

// comparison compares the upper layer of the root with the image.
type comparison struct {
	base, upper string
	skip        []string
	out         *bufio.Writer
}

func (c *comparison) send() error {
	if err := c.compare(""); err != nil {
		return err
	}
	for _, name := range databases {
		if _, err := os.Lstat(path.Join(c.upper, name)); err != nil {
			continue
		}
		now, err := readSome(path.Join(c.upper, name))
		if err != nil {
			return err
		}
		was, err := readSome(path.Join(c.base, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := c.tell(wire.Change{Kind: wire.Database, Path: []byte(name), Base: was, Text: now}); err != nil {
			return err
		}
	}
	return errors.Join(c.sendLists(), c.out.Flush())
}

// sendLists sends the lists of files of the packages that have changed.
func (c *comparison) sendLists() error {
	entries, err := os.ReadDir(path.Join(c.upper, lists))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".list") {
			continue
		}
		name, from := path.Join(lists, e.Name()), c.upper
		if !e.Type().IsRegular() { // the package has been removed
			from = c.base
		}
		text, err := readSome(path.Join(from, name))
		if err != nil {
			continue // the image had no such package either
		}
		if err := c.tell(wire.Change{Kind: wire.List, Path: []byte(name), Text: text}); err != nil {
			return err
		}
	}
	return nil
}

func readSome(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDatabase))
}

func (c *comparison) tell(change wire.Change) error {
	line, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = c.out.Write(append(line, '\n'))
	return err
}

// compare sends the differences in a directory of the upper layer.
func (c *comparison) compare(dir string) error {
	entries, err := os.ReadDir(path.Join(c.upper, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.name(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// name sends the difference at a name, and those below it.
func (c *comparison) name(name string) error {
	var now, was unix.Stat_t
	err := unix.Lstat(path.Join(c.upper, name), &now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has just been deleted
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: "/" + name, Err: err}
	}
	there := unix.Lstat(path.Join(c.base, name), &was) == nil
	kind := now.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFCHR && now.Rdev == 0: // overlayfs has deleted it
		if !there {
			return nil
		}
		return c.tell(wire.Change{Kind: wire.Deleted, Path: []byte(name), Dir: was.Mode&unix.S_IFMT == unix.S_IFDIR})
	case kind == unix.S_IFDIR:
		return c.directory(name, there && was.Mode&unix.S_IFMT == unix.S_IFDIR, sameRights(&now, &was))
	case c.skips(path.Dir(name)):
		return nil
	}
	change := wire.Change{Kind: wire.Added, Path: []byte(name)}
	if kind == unix.S_IFREG {
		change.Size = now.Size
	}
	if there {
		same, err := c.same(name, &now, &was)
		if err != nil || same {
			return err
		}
		change.Kind = wire.Changed
	}
	return c.tell(change)
}

// directory sends the difference of a directory, and what is in it.
func (c *comparison) directory(name string, there, sameRights bool) error {
	change := wire.Change{Kind: wire.Added, Path: []byte(name), Dir: true}
	if there {
		change.Kind = wire.Changed
	}
	if !c.skips(name) && (!there || !sameRights) {
		if err := c.tell(change); err != nil {
			return err
		}
	}
	if there && c.opaque(name) {
		if err := c.hidden(name); err != nil {
			return err
		}
	}
	return c.compare(name)
}

// opaque reports whether overlayfs shows nothing of the image in a directory.
func (c *comparison) opaque(dir string) bool {
	value := make([]byte, 8)
	n, err := unix.Lgetxattr(path.Join(c.upper, dir), "trusted.overlay.opaque", value)
	return err == nil && n > 0 && value[0] == 'y'
}

// hidden sends what of the image an opaque directory no longer has.
func (c *comparison) hidden(dir string) error {
	entries, err := os.ReadDir(path.Join(c.base, dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if _, err := os.Lstat(path.Join(c.upper, name)); err == nil || c.skips(dir) {
			continue
		}
		if err := c.tell(wire.Change{Kind: wire.Deleted, Path: []byte(name), Dir: e.IsDir()}); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) skips(dir string) bool {
	return slices.ContainsFunc(c.skip, func(skip string) bool { return dir == skip || strings.HasPrefix(dir, skip+"/") })
}

func sameRights(a, b *unix.Stat_t) bool { return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid }

// same reports whether a file is as in the image: overlayfs copies a file also for a change
// that is taken back.
func (c *comparison) same(name string, now, was *unix.Stat_t) (bool, error) {
	if !sameRights(now, was) || now.Rdev != was.Rdev {
		return false, nil
	}
	a, b := path.Join(c.upper, name), path.Join(c.base, name)
	switch now.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if now.Size != was.Size {
			return false, nil
		}
		return sameContent(a, b)
	case unix.S_IFLNK:
		x, errA := os.Readlink(a)
		y, errB := os.Readlink(b)
		return x == y, errors.Join(errA, errB)
	}
	return true, nil
}

func sameContent(a, b string) (bool, error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer y.Close()
	partX, partY := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errX := io.ReadFull(x, partX)
		m, errY := io.ReadFull(y, partY)
		if !bytes.Equal(partX[:n], partY[:m]) {
			return false, nil
		}
		if errX != nil || errY != nil {
			return errors.Is(errX, io.EOF) || errors.Is(errX, io.ErrUnexpectedEOF), nil
		}
	}
}
