// Package durabletest is a model of a disk: it knows what a power cut would
// leave of a directory, so that a test can compare that with what was promised.
package durabletest

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/durable"
)

// Disk is what has come onto the disk of the files below a directory. Files
// are known by their inode: a name of theirs is their directory's content.
type Disk struct {
	t    testing.TB
	root string
	each func()

	mu    sync.Mutex
	files map[inode]content
	dirs  map[inode]map[string]inode
}

type inode struct{ dev, number uint64 }

// content stands for a file's: nobody writes to a file without changing this.
type content struct {
	size    int64
	changed time.Time
	mode    fs.FileMode
}

// New takes what is at root, and the name of root itself, for being on the
// disk, and then watches until the test's end. It fails the test where a name
// is given to what is not on the disk.
func New(t testing.TB, root string) *Disk {
	t.Helper()
	d := &Disk{t: t, root: root, files: map[inode]content{}, dirs: map[inode]map[string]inode{}}
	d.syncTree()
	before := durable.Watch.Load() // of the test that this one is a part of
	watch := func(what, path string) {
		if before != nil {
			(*before)(what, path)
		}
		if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
			d.watch(what, path)
		}
	}
	durable.Watch.Store(&watch)
	t.Cleanup(func() { durable.Watch.Store(before) })
	return d
}

// Each calls f after each change, until it is told another. f may ask Lost.
func (d *Disk) Each(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.each = f
}

func (d *Disk) watch(what, path string) {
	switch what {
	case "naming":
		d.mu.Lock()
		for _, lost := range d.lostBelow(path, nil) {
			d.t.Errorf("%s is given a name before its content is on the disk: a power cut takes %s", path, lost)
		}
		d.mu.Unlock()
	case "all synced":
		d.syncTree()
	default:
		d.mu.Lock()
		d.sync(path)
		d.mu.Unlock()
	}
	d.mu.Lock()
	each := d.each
	d.mu.Unlock()
	if each != nil {
		each()
	}
}

func (d *Disk) syncTree() {
	d.mu.Lock()
	defer d.mu.Unlock()
	filepath.WalkDir(d.root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			d.sync(path)
		}
		return nil
	})
}

func (d *Disk) sync(path string) {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
	case info.IsDir():
		d.dirs[inodeOf(info)] = names(path)
	default:
		d.files[inodeOf(info)] = contentOf(info)
	}
}

// Check fails the test where something is lost.
func (d *Disk) Check(path string, except ...string) {
	d.t.Helper()
	for _, lost := range d.Lost(path, except...) {
		d.t.Errorf("a power cut takes %s", lost)
	}
}

// Names are those that a directory has after a power cut.
func (d *Disk) Names(dir string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	info, err := os.Lstat(dir)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(d.dirs[inodeOf(info)]))
}

// Lost tells in what the files at path, and path itself, would differ after a
// power cut. except are patterns of names that do not matter.
func (d *Disk) Lost(path string, except ...string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lost []string
	for at := path; at != d.root; at = filepath.Dir(at) {
		if name := d.lostName(filepath.Dir(at), filepath.Base(at)); name != "" {
			lost = append(lost, name)
		}
	}
	return append(lost, d.lostBelow(path, except)...)
}

func (d *Disk) lostBelow(path string, except []string) (lost []string) {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		if err == nil && info.Mode().IsRegular() && d.files[inodeOf(info)] != contentOf(info) {
			lost = append(lost, "the content of "+path)
		}
		return lost
	}
	now := names(path)
	all := map[string]bool{}
	for name := range now {
		all[name] = true
	}
	for name := range d.dirs[inodeOf(info)] {
		all[name] = true
	}
	for name := range all {
		if slices.ContainsFunc(except, func(pattern string) bool { ok, _ := filepath.Match(pattern, name); return ok }) {
			continue
		}
		if said := d.lostName(path, name); said != "" {
			lost = append(lost, said)
		}
		if _, is := now[name]; is {
			lost = append(lost, d.lostBelow(filepath.Join(path, name), except)...)
		}
	}
	slices.Sort(lost)
	return lost
}

// lostName is about one name in a directory.
func (d *Disk) lostName(dir, name string) string {
	info, err := os.Lstat(dir)
	if err != nil {
		return "" // told of its own name
	}
	now, is := names(dir)[name]
	then, was := d.dirs[inodeOf(info)][name]
	path := filepath.Join(dir, name)
	switch {
	case is && !was:
		return "the name " + path
	case was && !is:
		return "the removal of " + path
	case now != then:
		return "the replacement of " + path
	}
	return ""
}

func names(dir string) map[string]inode {
	found := map[string]inode{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return found
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			found[entry.Name()] = inodeOf(info)
		}
	}
	return found
}

func inodeOf(info fs.FileInfo) inode {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		panic(fmt.Sprintf("%s has no inode", info.Name()))
	}
	return inode{uint64(stat.Dev), stat.Ino}
}

func contentOf(info fs.FileInfo) content { return content{info.Size(), info.ModTime(), info.Mode()} }
