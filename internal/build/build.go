// Package build builds runtime bundles: it decides which parts are missing or stale,
// builds these, and writes the manifest last. It also packs a bundle for another host.
// The packages below it build the kernel set and the image.
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

// imageRecipe counts the changes to how build/image builds an image. An image of an
// older recipe is stale.
const imageRecipe = 2

// imageName is the name of the default image.
const imageName = "docker"

// Part is a part of a bundle.
type Part string

// The parts.
const (
	All         Part = ""
	Kernel      Part = "kernel"
	Image       Part = "image"
	Firecracker Part = "firecracker" // only on request, since VMs can use QEMU
)

// Options say what to build.
type Options struct {
	Dir      config.BundleDir
	Packages string // packages.apt
	Pins     string // runtime-bundle.toml
	Cache    string // can be deleted between builds
	Mirror   string // empty: Debian's own
	Only     Part
	Force    bool // rebuild what is up to date
	Verify   bool // read every byte instead of trusting times and sizes
	Out      io.Writer
	Terminal bool // Out is a terminal
}

// builder is one build.
type builder struct {
	Options
	runner   hostcmd.Runner
	makers   map[Part]maker
	report   *report
	packages string // digest of packages.apt
	work     string
	log      *os.File
	told     bool // there was a bundle.json before
	adopted  bool // bundle.json lacks the kernel set that is there
	manifest bundle.Manifest
}

// maker builds one part and writes it into the manifest. make returns a summary for a
// person.
type maker struct {
	ready func() error // returns what the host lacks for it
	make  func(ctx context.Context) (summary string, err error)
}

// Build brings the bundle in opts.Dir up to date. It does not use the network if the
// bundle is up to date already. Another build of the same bundle, or with the same
// cache, is a Conflict.
func Build(ctx context.Context, runner hostcmd.Runner, opts Options) error {
	if !slices.Contains([]Part{All, Kernel, Image, Firecracker}, opts.Only) {
		return banger.Invalidf("use --only kernel, --only image or --only firecracker", "a bundle has no part %q", opts.Only)
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
			return fmt.Errorf("%w (full output: %s)", err, b.log.Name())
		}
	}
	if err := b.write(); err != nil || !b.told {
		return err
	}
	b.report.line("a running daemon keeps using the old bundle; to create VMs from the new one: banger daemon stop (running VMs are not affected)")
	return nil
}

func (b *builder) write() error {
	b.manifest.CreatedAt = time.Now().UTC().Truncate(time.Second)
	if err := b.manifest.Write(b.Dir); err != nil {
		return fmt.Errorf("write bundle.json: %w", err)
	}
	return nil
}

// open locks the bundle and the cache against other builds, and reads the manifest.
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

// lock creates a directory and locks it. A lock file would stay behind.
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
				Why: fmt.Errorf("another build is running in %s", dir), Fix: "wait until it ends",
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
	// An unusable bundle is built like a missing one.
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
	b.report.line("%s is up to date: %s; --force rebuilds it", b.Dir, strings.Join(parts, ", "))
}

// make builds one part. An old manifest would be wrong from then on, so make replaces
// it at once.
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
		Packages: b.Packages, Out: out, WorkDir: b.work, Mirror: b.Mirror, Log: b.log, Done: b.report.done,
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

// copyPackages copies packages.apt into the bundle.
func (b *builder) copyPackages() error {
	text, err := os.ReadFile(b.Packages)
	if err != nil {
		return err
	}
	return durable.WriteFile(b.Dir.Packages(), text, 0o644)
}
