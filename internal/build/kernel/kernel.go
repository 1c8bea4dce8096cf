// Package kernel builds kernel sets from Debian's kernel packages: the kernel, the boot
// modules for the initrd, and all modules as a read-only disk. It needs no root and
// installs nothing on the host. It does not record the sets it built.
package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/build/debian"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/hostcmd"
)

// Recipe counts the changes to how a set is built. A set of an older recipe is stale.
const Recipe = 2

// Options say what to build from and where to.
type Options struct {
	Out     config.KernelDir // replaced atomically
	WorkDir string           // keeps indexes and the package for the next build
	Keyring string           // of the archive
	Mirror  string           // empty: debian.Mirror
	Log     io.Writer        // gets apt's output; may be nil
}

// Built describes a kernel set. It is also what kernel.json holds.
type Built struct {
	Release string        `json:"release"`
	Digest  banger.Digest `json:"digest"`
	Size    banger.Size   `json:"size_bytes"`
	Origin  string        `json:"origin"`
	Recipe  int           `json:"recipe"`
}

// Build builds the set of the release's newest kernel. It calls progress as each step
// begins. Two builds with the same Out must not run at once.
func Build(ctx context.Context, runner hostcmd.Runner, opts Options, progress func(step string)) (Built, error) {
	built, err := build(ctx, runner, opts, progress)
	if err != nil {
		return Built{}, fmt.Errorf("build kernel set: %w", err)
	}
	return built, nil
}

func build(ctx context.Context, runner hostcmd.Runner, opts Options, progress func(string)) (Built, error) {
	if progress == nil {
		progress = func(string) {}
	}
	if opts.Log == nil {
		opts.Log = io.Discard
	}
	out, err := filepath.Abs(string(opts.Out))
	if err != nil {
		return Built{}, err
	}
	from, err := fetch(ctx, runner, opts, progress)
	if err != nil {
		return Built{}, err
	}
	// The name is always the same, so that the next build removes what a killed one left.
	stage := filepath.Join(filepath.Dir(out), "."+filepath.Base(out)+".new")
	if err := os.RemoveAll(stage); err != nil {
		return Built{}, fmt.Errorf("remove what an earlier build left: %w", err)
	}
	defer os.RemoveAll(stage)
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return Built{}, err
	}
	if err := assemble(ctx, from, config.KernelDir(stage), progress); err != nil {
		return Built{}, err
	}
	built, err := describe(ctx, from, config.KernelDir(stage))
	if err != nil {
		return Built{}, err
	}
	if err := place(stage, out); err != nil {
		return Built{}, fmt.Errorf("put it in place: %w", err)
	}
	return built, nil
}

// source is a downloaded kernel package.
type source struct {
	deb
	release string
}

func fetch(ctx context.Context, runner hostcmd.Runner, opts Options, progress func(string)) (source, error) {
	if _, err := runner.Look("apt-get"); err != nil {
		return source{}, err
	}
	dir, err := filepath.Abs(filepath.Join(opts.WorkDir, "apt"))
	if err != nil {
		return source{}, err
	}
	a := apt{runner: runner, dir: dir, log: opts.Log}
	progress("fetch package indexes")
	if err := a.setUp(ctx, opts.Mirror, opts.Keyring); err != nil {
		return source{}, err
	}
	if err := a.update(ctx); err != nil {
		return source{}, err
	}
	name, err := a.newest(ctx)
	if err != nil {
		return source{}, err
	}
	progress("download " + name)
	found, err := a.download(ctx, name)
	return source{found, strings.TrimPrefix(name, "linux-image-")}, err
}

// assemble writes the files of the set into dir.
func assemble(ctx context.Context, from source, dir config.KernelDir, progress func(string)) error {
	tree := filepath.Join(string(dir), "tree")
	defer os.RemoveAll(tree)
	progress("unpack " + from.name())
	if err := unpack(ctx, from.path, from.release, tree); err != nil {
		return err
	}
	if err := extractVmlinux(filepath.Join(tree, "vmlinuz"), dir.Vmlinux()); err != nil {
		return fmt.Errorf("extract vmlinux from the kernel: %w", err)
	}
	progress("index modules")
	set, err := readModules(ctx, filepath.Join(tree, "modules"))
	if err != nil {
		return err
	}
	if err := set.writeIndexes(); err != nil {
		return fmt.Errorf("index modules: %w", err)
	}
	if err := set.writeBootModules(dir.BootModules()); err != nil {
		return fmt.Errorf("write boot modules: %w", err)
	}
	progress("write modules disk")
	return writeDisk(ctx, set.dir, dir.Modules())
}

// describe writes kernel.json and makes the files read-only, so that the state
// directory can share them with a bundle.
func describe(ctx context.Context, from source, dir config.KernelDir) (Built, error) {
	digest, size, err := bundle.KernelDigest(ctx, dir)
	if err != nil {
		return Built{}, err
	}
	built := Built{
		Release: from.release, Digest: digest, Size: size, Recipe: Recipe,
		Origin: fmt.Sprintf("%s of Debian %s", strings.TrimSuffix(from.name(), ".deb"), debian.Suite),
	}
	text, err := json.MarshalIndent(built, "", "  ")
	if err != nil {
		return Built{}, err
	}
	if err := os.WriteFile(dir.Info(), append(text, '\n'), 0o644); err != nil {
		return Built{}, err
	}
	for _, path := range []string{dir.Vmlinux(), dir.BootModules(), dir.Modules(), dir.Info()} {
		if err := seal(path); err != nil {
			return Built{}, fmt.Errorf("sync %s: %w", filepath.Base(path), err)
		}
	}
	return built, durable.Sync(string(dir))
}

func seal(path string) error {
	if err := os.Chmod(path, 0o444); err != nil {
		return err
	}
	return durable.Sync(path)
}

// place renames stage to out atomically. If out exists, the two exchange their names.
func place(stage, out string) error {
	err := durable.Rename(stage, out)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) {
		err = durable.Exchange(stage, out)
	}
	return err
}
