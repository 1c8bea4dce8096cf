// Package bundle owns the runtime bundle: it reads and writes the manifest, and
// installs the kernel set, the image, the agent and Firecracker into the state
// directory. It does not build them; package build does.
package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
)

// Version is the manifest's version. Open refuses a bundle of another version.
const Version = 1

// Manifest is the content of bundle.json. A part without a digest is missing.
type Manifest struct {
	Version     int         `json:"version"`
	Kernel      Kernel      `json:"kernel,omitzero"`
	Image       Image       `json:"image,omitzero"`
	Firecracker Firecracker `json:"firecracker,omitzero"` // hosts without one use QEMU
	CreatedAt   time.Time   `json:"created_at"`
}

// Kernel describes the bundle's kernel set.
type Kernel struct {
	Release string        `json:"release"`
	Digest  banger.Digest `json:"digest"` // as KernelDigest returns it
	Origin  string        `json:"origin"`
	Size    banger.Size   `json:"size_bytes"`
	Recipe  int           `json:"recipe"` // of the build that made it
}

// Image describes the bundle's default image.
type Image struct {
	Name     string        `json:"name"`
	File     string        `json:"file"`
	Digest   banger.Digest `json:"digest"` // of the file
	Origin   string        `json:"origin"`
	Size     banger.Size   `json:"size_bytes"`
	Packages string        `json:"packages_sha256"` // of packages.apt at the build
	Recipe   int           `json:"recipe"`
}

// Firecracker describes the bundle's VMM.
type Firecracker struct {
	Version string        `json:"version"`
	Digest  banger.Digest `json:"digest"` // of the file
	Origin  string        `json:"origin"`
	Size    banger.Size   `json:"size_bytes"`
	Pinned  string        `json:"pinned"` // digest of the download that it was in
}

// Bundle is a bundle whose manifest has been read, and nothing else.
type Bundle struct {
	Dir config.BundleDir
	Manifest
}

// Fixes for a damaged bundle, and for a damaged Firecracker in it.
const (
	rebuild = "make runtime"
	refetch = "make runtime-bundle"
)

// Open reads a bundle's manifest. A missing or unusable manifest is an Unready
// error.
func Open(dir config.BundleDir) (*Bundle, error) {
	unready := func(why error) error {
		return &banger.Error{Kind: banger.Unready, What: fmt.Sprintf("open the runtime bundle %s", dir), Why: why, Fix: rebuild}
	}
	text, err := os.ReadFile(dir.Manifest())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unready(errors.New("it has no bundle.json: it is missing, or was not finished"))
	}
	if err != nil {
		return nil, unready(err)
	}
	b := &Bundle{Dir: dir}
	if err := json.Unmarshal(text, &b.Manifest); err != nil {
		return nil, unready(fmt.Errorf("read bundle.json: %w", err))
	}
	if err := b.check(); err != nil {
		return nil, unready(fmt.Errorf("read bundle.json: %w", err))
	}
	return b, nil
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// check makes sure that digests and names can be used in paths.
func (m *Manifest) check() error {
	if m.Version != Version {
		return fmt.Errorf("its version is %d; this banger reads version %d", m.Version, Version)
	}
	for _, digest := range []banger.Digest{m.Kernel.Digest, m.Image.Digest, m.Firecracker.Digest} {
		if digest != "" && !digestForm.MatchString(string(digest)) {
			return fmt.Errorf("%q is not a digest", digest)
		}
	}
	if file := m.Image.File; m.Image.Digest != "" && (!filepath.IsLocal(file) || filepath.Base(file) != file) {
		return fmt.Errorf("%q is not the name of a file", file)
	}
	return nil
}

// Rootfs returns the path of the bundle's image.
func (b *Bundle) Rootfs() string { return filepath.Join(string(b.Dir), b.Image.File) }

// Verify reads the whole bundle and compares it with the manifest. A missing or
// changed part is an Unready error.
func (b *Bundle) Verify(ctx context.Context) error {
	got, _, err := KernelDigest(ctx, b.Dir.Kernel())
	if err := compare(string(b.Dir.Kernel()), got, b.Kernel.Digest, err, rebuild); err != nil {
		return err
	}
	got, _, err = FileDigest(ctx, b.Rootfs())
	if err := compare(b.Rootfs(), got, b.Image.Digest, err, rebuild); err != nil || b.Firecracker.Digest == "" {
		return err
	}
	return b.verifyFirecracker(ctx)
}

func (b *Bundle) verifyFirecracker(ctx context.Context) error {
	got, _, err := FileDigest(ctx, b.Dir.Firecracker())
	return compare(b.Dir.Firecracker(), got, b.Firecracker.Digest, err, refetch)
}

// compare returns an error unless got and want are equal. err is the error of
// hashing what is at path.
func compare(path string, got, want banger.Digest, err error, fix string) error {
	if err == nil && got == want {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("its digest is %s, but bundle.json says %q", got, want)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return &banger.Error{Kind: banger.Unready, What: fmt.Sprintf("check %s", path), Why: err, Fix: fix}
}

// Write writes bundle.json atomically and syncs it.
func (m Manifest) Write(dir config.BundleDir) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(dir.Manifest(), append(text, '\n'), 0o644)
}
