package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/build/kernel"
	"banger/internal/bundle"
	"banger/internal/disk"
)

// staleness is a part that has to be built, and why.
type staleness struct {
	part Part
	why  string
}

// stale lists what has to be built, in order.
func (b *builder) stale(ctx context.Context) ([]staleness, error) {
	var all []staleness
	for _, check := range []struct {
		part Part
		why  func(context.Context) (string, error)
	}{{Kernel, b.whyKernel}, {Image, b.whyImage}, {Firecracker, b.whyFirecracker}} {
		if b.Only != check.part && (b.Only != All || check.part == Firecracker) {
			continue
		}
		why, err := check.why(ctx)
		if err != nil {
			return nil, err
		}
		if why != "" {
			all = append(all, staleness{check.part, why})
		}
	}
	return all, nil
}

// Reasons to build a part.
const (
	asked     = "requested"
	missing   = "not built yet"
	oldRecipe = "this version of banger builds it differently"
	changed   = "its content differs from bundle.json"
)

func (b *builder) whyKernel(ctx context.Context) (string, error) {
	dir := b.Dir.Kernel()
	files := []string{dir.Vmlinux(), dir.BootModules(), dir.Modules(), dir.Info()}
	switch {
	case b.Force:
		return asked, nil
	case !there(files...):
		return missing, nil
	case b.manifest.Kernel.Digest == "" && !b.adoptKernel():
		return missing, nil
	case b.manifest.Kernel.Recipe != kernel.Recipe:
		return oldRecipe, nil
	case !b.Verify && b.untouched(b.manifest.Kernel.Size, dir.Vmlinux(), dir.BootModules(), dir.Modules()):
		return "", nil
	}
	got, _, err := bundle.KernelDigest(ctx, dir)
	if err != nil || got == b.manifest.Kernel.Digest {
		return "", err
	}
	return changed, nil
}

// adoptKernel adds to the manifest a kernel set that an earlier build finished before
// it failed. Its content is checked like any other's.
func (b *builder) adoptKernel() bool {
	var built kernel.Built
	text, err := os.ReadFile(b.Dir.Kernel().Info())
	if err != nil || json.Unmarshal(text, &built) != nil {
		return false
	}
	b.manifest.Kernel = bundle.Kernel{Release: built.Release, Digest: built.Digest, Origin: built.Origin, Size: built.Size, Recipe: built.Recipe}
	b.adopted = true
	return true
}

func (b *builder) whyImage(ctx context.Context) (string, error) {
	rootfs := b.Dir.Rootfs()
	switch m := b.manifest.Image; {
	case b.Force:
		return asked, nil
	case m.Digest == "" || !there(rootfs, b.Dir.Packages()):
		return missing, nil
	case m.Packages != b.packages:
		return "packages.apt has changed", nil
	case m.Recipe != imageRecipe:
		return oldRecipe, nil
	case !b.Verify && b.untouched(m.Size, rootfs):
		return "", nil
	}
	got, _, err := bundle.FileDigest(ctx, rootfs)
	if err != nil || got == b.manifest.Image.Digest {
		return "", err
	}
	return changed, nil
}

func there(paths ...string) bool {
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// untouched reports whether the files have their size and are not newer than the
// manifest, which is written last. Then there is no need to read them.
func (b *builder) untouched(size banger.Size, files ...string) bool {
	manifest, err := os.Stat(b.Dir.Manifest())
	if err != nil {
		return false
	}
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil || info.ModTime().After(manifest.ModTime()) {
			return false
		}
		size -= banger.Size(info.Size())
	}
	return size == 0
}

// settle makes the manifest the newest file again, once the bundle has been checked. The
// files of a copied bundle have times in any order, and would be read by each build.
func (b *builder) settle() error {
	if b.adopted {
		return b.write()
	}
	if b.Only != All || b.untouched(b.manifest.Kernel.Size+b.manifest.Image.Size, b.contents()...) {
		return nil
	}
	now := time.Now()
	return os.Chtimes(b.Dir.Manifest(), now, now)
}

func (b *builder) contents() []string {
	dir := b.Dir.Kernel()
	return []string{dir.Vmlinux(), dir.BootModules(), dir.Modules(), b.Dir.Rootfs()}
}

// The most that a build writes: into the bundle, into the cache, and into the directory
// for temporary files.
var space = map[Part]struct{ bundle, cache, temporary banger.Size }{
	Kernel:      {bundle: 400 * banger.MiB, cache: 200 * banger.MiB},
	Firecracker: {bundle: 32 * banger.MiB, cache: 64 * banger.MiB},
	Image:       {bundle: 1536 * banger.MiB, cache: 1536 * banger.MiB, temporary: 2 * banger.GiB},
}

// ready checks before any download that the host has what the build needs.
func (b *builder) ready(stale []staleness) error {
	need := map[string]banger.Size{}
	for _, s := range stale {
		need[string(b.Dir)] += space[s.part].bundle
		need[b.work] += space[s.part].cache
		if size := space[s.part].temporary; size > 0 {
			need[temporary()] += size
		}
		if err := b.makers[s.part].ready(); err != nil {
			return err
		}
	}
	return enough(need)
}

// temporary returns the directory for temporary files.
func temporary() string {
	if dir := os.Getenv("TMPDIR"); dir != "" {
		return dir
	}
	return "/var/tmp"
}

// enough returns an error if a file system has less space than its directories need.
func enough(need map[string]banger.Size) error {
	type fileSystem struct {
		dir        string
		need, free banger.Size
	}
	all := map[uint64]*fileSystem{}
	for dir, size := range need {
		var stat unix.Stat_t
		if err := unix.Stat(dir, &stat); err != nil {
			return &fs.PathError{Op: "stat", Path: dir, Err: err}
		}
		f := all[stat.Dev]
		if f == nil {
			free, err := disk.Free(dir)
			if err != nil {
				return err
			}
			f = &fileSystem{dir: dir, free: free}
			all[stat.Dev] = f
		}
		f.need += size
		if f.need > f.free {
			return &banger.Error{
				Kind: banger.Unready, What: "build the runtime bundle",
				Why: fmt.Errorf("it needs up to %s on the file system of %s, which has %s free", f.need, filepath.Clean(f.dir), f.free), Fix: "free some space there",
			}
		}
	}
	return nil
}
