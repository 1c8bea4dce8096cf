package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/durable"
)

// Pack writes a bundle as a compressed archive for another host and returns the
// archive's digest. The same bundle gives the same archive. Content that differs from
// bundle.json is an Unready error.
func Pack(ctx context.Context, dir config.BundleDir, out string) (banger.Digest, error) {
	digest, err := packAt(ctx, dir, out)
	if err != nil {
		return "", &banger.Error{What: fmt.Sprintf("pack %s", dir), Why: err}
	}
	return digest, nil
}

func packAt(ctx context.Context, dir config.BundleDir, out string) (banger.Digest, error) {
	b, err := bundle.Open(dir)
	if err != nil {
		return "", err
	}
	if err := b.Verify(ctx); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	sum := sha256.New()
	err = durable.Write(out, 0o644, func(file *os.File) error {
		return writeArchive(ctx, b, io.MultiWriter(file, sum))
	})
	return banger.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), err
}

// packed lists the files of the archive: those that must exist, and those that may.
func packed(b *bundle.Bundle) (must, may []string) {
	k := b.Dir.Kernel()
	return []string{b.Dir.Manifest(), k.Info(), k.Vmlinux(), k.BootModules(), k.Modules(), b.Rootfs(), b.Dir.Packages()},
		[]string{b.Dir.BaseRootfs(), b.Dir.Agent(), b.Dir.Firecracker()}
}

func writeArchive(ctx context.Context, b *bundle.Bundle, w io.Writer) error {
	packer, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packer)
	kernel, err := filepath.Rel(string(b.Dir), string(b.Dir.Kernel()))
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: kernel + "/", Mode: 0o755, Typeflag: tar.TypeDir, ModTime: b.CreatedAt}); err != nil {
		return err
	}
	must, may := packed(b)
	for _, path := range must {
		if err := add(ctx, archive, b, path); err != nil {
			return err
		}
	}
	for _, path := range may {
		if there(path) {
			if err := add(ctx, archive, b, path); err != nil {
				return err
			}
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return packer.Close()
}

func add(ctx context.Context, archive *tar.Writer, b *bundle.Bundle, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	name, err := filepath.Rel(string(b.Dir), path)
	if err != nil {
		return err
	}
	header := &tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size(), Typeflag: tar.TypeReg, ModTime: b.CreatedAt.Truncate(time.Second)}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}
