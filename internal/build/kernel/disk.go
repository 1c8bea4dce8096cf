package kernel

import (
	"archive/tar"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"banger/internal/guest/wire"
	"banger/internal/rootfs"
)

// writeDisk writes the content of the modules directory as a disk.
func writeDisk(ctx context.Context, dir, path string) error {
	read, write := io.Pipe()
	go func() { write.CloseWithError(writeTar(ctx, dir, write)) }()
	_, err := rootfs.Write(ctx, read, path, rootfs.Options{Label: wire.LabelModules})
	read.Close() // ends the writer after an error
	if err != nil {
		return fmt.Errorf("write modules disk: %w", err)
	}
	return nil
}

// writeTar writes a directory's content as a tar archive. Every entry belongs to root and
// is dated 1970, so that the same package gives the same disk.
func writeTar(ctx context.Context, dir string, w io.Writer) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil || path == dir {
			return cmp.Or(err, ctx.Err())
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: name, Mode: 0o644, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
		if entry.IsDir() {
			header.Typeflag, header.Mode, header.Name = tar.TypeDir, 0o755, name+"/"
			return out.WriteHeader(header)
		}
		return writeTarFile(out, header, path)
	})
	if err != nil {
		return err
	}
	return out.Close()
}

func writeTarFile(out *tar.Writer, header *tar.Header, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(out, file)
	return err
}
