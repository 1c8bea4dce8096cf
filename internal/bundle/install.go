package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
)

// Installed describes what Install took from a bundle. A part that the bundle lacks
// is zero.
type Installed struct {
	Image       banger.Image
	Kernel      banger.Kernel
	Agent       banger.Digest
	Firecracker banger.Digest
}

// begun is the prefix of what an install has not finished.
const begun = ".new-"

// Install copies the bundle's agent and Firecracker into the state directory, and
// returns the kernel set and the image as the manifest describes them; InstallKernel
// and InstallImage copy these when a VM needs them. Install skips what is there
// already, so a daemon calls it at every start. It also removes what a killed install
// left: no other install may run at the same time.
//
// The agent is the bundle's, else the one beside the running program. If a part
// fails, Install still installs the others and returns them with the error.
func Install(ctx context.Context, b *Bundle, dirs config.Dirs) (Installed, error) {
	var done Installed
	if k := b.Kernel; k.Digest != "" {
		done.Kernel = banger.Kernel{Name: k.Release, ID: k.Digest, Size: k.Size, Origin: k.Origin, CreatedAt: b.CreatedAt}
	}
	if i := b.Image; i.Digest != "" {
		done.Image = banger.Image{Name: i.Name, ID: i.Digest, Size: i.Size, Origin: i.Origin, CreatedAt: b.CreatedAt}
	}
	if err := prepare(dirs); err != nil {
		return done, fmt.Errorf("install the runtime bundle: %w", err)
	}
	var failed []error
	var err error
	if done.Agent, err = b.installAgent(ctx, dirs); err != nil {
		failed = append(failed, fmt.Errorf("install agent: %w", err))
	}
	if err := b.installFirecracker(ctx, dirs, &done); err != nil {
		failed = append(failed, fmt.Errorf("install Firecracker: %w", err))
	}
	return done, errors.Join(failed...)
}

// prepare creates the directories to install into and removes what a killed install
// left there.
func prepare(dirs config.Dirs) error {
	for _, dir := range []string{dirs.Images(), dirs.Kernels(), dirs.Agents(), dirs.VMMs()} {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		left, _ := filepath.Glob(filepath.Join(dir, begun+"*")) // only a bad pattern is an error
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// InstallKernel copies the bundle's kernel set into the state directory and verifies
// the copy, unless it is there already.
func (b *Bundle) InstallKernel(ctx context.Context, dirs config.Dirs) error {
	from, to := b.Dir.Kernel(), dirs.Kernel(b.Kernel.Digest)
	return place(string(to), func(stage string) error {
		for _, path := range append(kernelFiles(from), from.Info()) {
			if err := share(ctx, path, filepath.Join(stage, filepath.Base(path))); err != nil {
				return err
			}
		}
		got, _, err := KernelDigest(ctx, config.KernelDir(stage))
		return compare(string(from), got, b.Kernel.Digest, err, rebuild)
	})
}

// InstallImage copies the bundle's image into the state directory and verifies the
// copy, unless it is there already.
func (b *Bundle) InstallImage(ctx context.Context, dirs config.Dirs) error {
	to := dirs.Image(b.Image.Digest)
	return place(string(to), func(stage string) error {
		copied := filepath.Join(stage, filepath.Base(to.Rootfs()))
		if err := share(ctx, b.Rootfs(), copied); err != nil {
			return err
		}
		got, _, err := FileDigest(ctx, copied)
		return compare(b.Rootfs(), got, b.Image.Digest, err, rebuild)
	})
}

// place creates dir with what fill puts into it, atomically, unless dir exists.
func place(dir string, fill func(stage string) error) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	stage := filepath.Join(filepath.Dir(dir), begun+filepath.Base(dir))
	if err := os.Mkdir(stage, 0o700); err != nil {
		return err
	}
	err := fill(stage)
	if err == nil {
		err = durable.Sync(stage)
	}
	if err == nil {
		err = durable.Rename(stage, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(stage))
	}
	return nil
}

// installAgent copies the agent. A hard link would change when a build writes to its
// output in place.
func (b *Bundle) installAgent(ctx context.Context, dirs config.Dirs) (banger.Digest, error) {
	from, err := b.findAgent()
	if err != nil {
		return "", err
	}
	digest, _, err := FileDigest(ctx, from)
	if err != nil {
		return "", err
	}
	return digest, installProgram(ctx, from, dirs.Agent(digest), digest)
}

func (b *Bundle) installFirecracker(ctx context.Context, dirs config.Dirs, done *Installed) error {
	want := b.Firecracker.Digest
	if want == "" {
		return nil
	}
	to := dirs.Firecracker(want)
	if _, err := os.Stat(to); errors.Is(err, fs.ErrNotExist) {
		if err := b.verifyFirecracker(ctx); err != nil {
			return err
		}
	}
	if err := installProgram(ctx, b.Dir.Firecracker(), to, want); err != nil {
		return err
	}
	done.Firecracker = want
	return nil
}

// installProgram copies a program to its place in the state directory, unless it is
// there already.
func installProgram(ctx context.Context, from, to string, want banger.Digest) error {
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	stage := filepath.Join(filepath.Dir(to), begun+"program")
	defer os.Remove(stage) // does nothing after the rename
	if err := copyProgram(ctx, from, stage); err != nil {
		return err
	}
	if got, _, err := FileDigest(ctx, stage); err != nil || got != want {
		return cmp.Or(err, fmt.Errorf("%s changed while it was copied", from))
	}
	return durable.Rename(stage, to)
}

func copyProgram(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o500)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := copySparse(ctx, in, out); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	if err := out.Chmod(0o555); err != nil { // root runs VMMs as other users
		return err
	}
	return durable.Sync(to)
}

func (b *Bundle) findAgent() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	tried := []string{b.Dir.Agent(), filepath.Join(filepath.Dir(program), "banger-agent")}
	for _, path := range tried {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("the agent is missing: there is no %s", strings.Join(tried, " and no ")), Fix: "make build"}
}
