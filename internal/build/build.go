// Package build makes runtime bundles: it decides which parts of one are
// missing or stale, has them built, and writes the manifest last. It also packs
// a bundle for another host. How the parts are made is their packages' own.
package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/build/debian"
	"banger/internal/build/image"
	"banger/internal/build/kernel"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/hostcmd"
)

// imageRecipe counts the changes to what build/image makes of the same
// packages: an image of an older recipe is stale.
const imageRecipe = 1

// imageName is what the default image is called.
const imageName = "docker"

// Part is a part of a bundle that can be built by itself.
type Part string

// The parts.
const (
	All         Part = ""
	Kernel      Part = "kernel"
	Image       Part = "image"
	Firecracker Part = "firecracker" // only when asked for: VMs run on QEMU too
)

// Options say what to build.
type Options struct {
	Dir      config.BundleDir
	Packages string // packages.apt
	Pins     string // runtime-bundle.toml
	Cache    string // safe to delete; shared by all builds
	Mirror   string // empty: Debian's own
	Only     Part
	Force    bool // build anew what is there already
	Verify   bool // read every byte, instead of trusting times and sizes
	Out      io.Writer
	Terminal bool // Out is one
}

// builder is one run.
type builder struct {
	Options
	runner   hostcmd.Runner
	makers   map[Part]maker
	report   *report
	packages string // digest of packages.apt
	work     string
	log      *os.File
	told     bool // bundle.json was there before
	adopted  bool // the kernel set is there and bundle.json does not say so
	manifest bundle.Manifest
}

// maker makes one part. It notes in the manifest what it made, and returns a
// summary for a person.
type maker struct {
	ready func() error // says what the host lacks for it
	make  func(ctx context.Context) (summary string, err error)
}

// Build brings the bundle in opts.Dir up to date. A bundle that is, is left as
// it is, without a look at the network. Another build of the same bundle, or
// with the same cache, is a Conflict.
func Build(ctx context.Context, runner hostcmd.Runner, opts Options) error {
	if !slices.Contains([]Part{All, Kernel, Image, Firecracker}, opts.Only) {
		return banger.Invalidf("write --only kernel, --only image or --only firecracker", "a bundle has no part %q", opts.Only)
	}
	b := &builder{Options: opts, runner: runner, report: &report{out: opts.Out, terminal: opts.Terminal}}
	b.makers = map[Part]maker{
		Kernel:      {func() error { _, err := runner.Look("apt-get"); return err }, b.makeKernel},
		Image:       {func() error { return image.Ready(runner) }, b.makeImage},
		Firecracker: {func() error { return nil }, b.makeFirecracker},
	}
	err := b.run(ctx)
	if ctx.Err() != nil && err != nil {
		return &banger.Error{Kind: banger.Canceled, What: "build the runtime bundle", Why: ctx.Err()}
	}
	return err
}

func (b *builder) run(ctx context.Context) error {
	unlock, err := b.open()
	if err != nil {
		return err
	}
	defer unlock()
	stale, err := b.stale(ctx)
	if err != nil {
		return err
	}
	if len(stale) == 0 {
		b.upToDate()
		return b.settle()
	}
	if err := b.ready(stale); err != nil {
		return err
	}
	b.log, err = os.OpenFile(filepath.Join(b.work, "build.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer b.log.Close()
	for _, s := range stale {
		if err := b.make(ctx, s); err != nil {
			return fmt.Errorf("%w (all that was said: %s)", err, b.log.Name())
		}
	}
	if err := b.write(); err != nil || !b.told {
		return err
	}
	b.report.line("a daemon that runs goes on with what it has; for new VMs from this: banger daemon stop (VMs run on)")
	return nil
}

func (b *builder) write() error {
	b.manifest.CreatedAt = time.Now().UTC().Truncate(time.Second)
	if err := b.manifest.Write(b.Dir); err != nil {
		return fmt.Errorf("write bundle.json: %w", err)
	}
	return nil
}

// open finds out what there is, and keeps other builds out.
func (b *builder) open() (unlock func(), err error) {
	dir, err := filepath.Abs(string(b.Dir))
	if err != nil {
		return nil, err
	}
	b.Dir, b.work = config.BundleDir(dir), filepath.Join(b.Cache, "bundle")
	var held []*os.File
	unlock = func() {
		for _, file := range held {
			file.Close()
		}
	}
	for _, dir := range []string{dir, b.work} {
		file, err := lock(dir)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, file)
	}
	if err := b.read(); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// lock makes a directory and locks it itself: that leaves no file behind.
func lock(dir string) (*os.File, error) {
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &banger.Error{
				Kind: banger.Conflict, What: "build the runtime bundle",
				Why: fmt.Errorf("another build is at work in %s", dir), Fix: "wait until it has ended",
			}
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return file, nil
}

func (b *builder) read() error {
	text, err := os.ReadFile(b.Packages)
	if err != nil {
		return fmt.Errorf("read the list of packages: %w", err)
	}
	sum := sha256.Sum256(text)
	b.packages = hex.EncodeToString(sum[:])
	// One that cannot be used is the same as none: it gets built.
	if old, err := bundle.Open(b.Dir); err == nil {
		b.manifest, b.told = old.Manifest, true
	}
	b.manifest.Version = bundle.Version
	return nil
}

func (b *builder) upToDate() {
	var parts []string
	if b.manifest.Kernel.Digest != "" {
		parts = append(parts, "kernel "+b.manifest.Kernel.Release)
	}
	if b.manifest.Image.Digest != "" {
		parts = append(parts, fmt.Sprintf("image %s (%s)", b.manifest.Image.Name, b.manifest.Image.Origin))
	}
	if vmm := b.manifest.Firecracker; vmm.Digest != "" {
		parts = append(parts, fmt.Sprintf("Firecracker %s (%s)", vmm.Version, vmm.Origin))
	}
	b.report.line("%s is up to date: %s; --force builds it anew", b.Dir, strings.Join(parts, ", "))
}

// make builds one part. From then on the old manifest would be wrong, so where
// there was one it is replaced at once.
func (b *builder) make(ctx context.Context, s staleness) error {
	b.report.begin(string(s.part), s.why)
	fmt.Fprintf(b.log, "== %s: %s\n", s.part, s.why)
	summary, err := b.makers[s.part].make(ctx)
	b.report.end(summary, err)
	if err != nil || !b.told {
		return err
	}
	return b.write()
}

func (b *builder) step(name string) {
	fmt.Fprintf(b.log, "== %s\n", name)
	b.report.step(name)
}

func (b *builder) makeKernel(ctx context.Context) (string, error) {
	keyring, err := debian.WriteKeyring(b.work)
	if err != nil {
		return "", err
	}
	built, err := kernel.Build(ctx, b.runner, kernel.Options{
		Out: b.Dir.Kernel(), WorkDir: b.work, Keyring: keyring, Mirror: b.Mirror, Log: b.log,
	}, b.step)
	if err != nil {
		return "", err
	}
	b.manifest.Kernel = bundle.Kernel{Release: built.Release, Digest: built.Digest, Origin: built.Origin, Size: built.Size, Recipe: built.Recipe}
	return fmt.Sprintf("%s, %s", built.Release, built.Size), nil
}

func (b *builder) makeImage(ctx context.Context) (string, error) {
	out := b.Dir.Rootfs()
	built, err := image.Build(ctx, b.runner, image.Options{
		Packages: b.Packages, Out: out, WorkDir: b.work, Mirror: b.Mirror, Log: b.log,
	}, b.step)
	if err != nil {
		return "", err
	}
	b.manifest.Image = bundle.Image{
		Name: imageName, File: filepath.Base(out), Digest: built.Digest, Origin: built.Origin, Size: built.Size,
		Packages: b.packages, Recipe: imageRecipe,
	}
	if err := b.copyPackages(); err != nil {
		return "", fmt.Errorf("copy the list of packages: %w", err)
	}
	return fmt.Sprintf("%s, %s", built.Origin, built.Size), nil
}

// copyPackages keeps with the image what it was made from.
func (b *builder) copyPackages() error {
	text, err := os.ReadFile(b.Packages)
	if err != nil {
		return err
	}
	return durable.WriteFile(b.Dir.Packages(), text, 0o644)
}
