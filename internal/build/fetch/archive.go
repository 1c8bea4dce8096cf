package fetch

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"

	"banger"
)

var (
	errNoMember   = errors.New("the archive does not contain it")
	errNotRegular = errors.New("it is not a regular file")
)

// maxArchive is how much of a decompressed archive is read to find a member.
const maxArchive = 4 << 30

// FromTar copies a member of a gzip-compressed tar archive to w. The member has exactly
// that name and must be a regular file of at most max bytes. No name in the archive
// becomes a path.
func FromTar(ctx context.Context, archive, member string, max banger.Size, w io.Writer) error {
	return open(archive, member, func(file *os.File) error {
		unpacked, err := gzip.NewReader(&contextReader{ctx, file})
		if err != nil {
			return err
		}
		members := tar.NewReader(io.LimitReader(unpacked, maxArchive))
		for {
			header, err := members.Next()
			if errors.Is(err, io.EOF) {
				return errNoMember
			}
			if err != nil {
				return err
			}
			if header.Name != member {
				continue
			}
			if header.Typeflag != tar.TypeReg {
				return errNotRegular
			}
			return copyMember(w, members, header.Size, max)
		}
	})
}

// FromZip is FromTar for zip archives.
func FromZip(ctx context.Context, archive, member string, max banger.Size, w io.Writer) error {
	return open(archive, member, func(file *os.File) error {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		unpacked, err := zip.NewReader(file, info.Size())
		if err != nil {
			return err
		}
		for _, found := range unpacked.File {
			if found.Name != member {
				continue
			}
			if !found.Mode().IsRegular() {
				return errNotRegular
			}
			content, err := found.Open()
			if err != nil {
				return err
			}
			defer content.Close()
			return copyMember(w, &contextReader{ctx, content}, int64(min(found.UncompressedSize64, 1<<62)), max)
		}
		return errNoMember
	})
}

func open(archive, member string, take func(file *os.File) error) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := take(file); err != nil {
		return fmt.Errorf("extract %s from %s: %w", member, archive, err)
	}
	return nil
}

func copyMember(w io.Writer, r io.Reader, size int64, max banger.Size) error {
	if size > int64(max) {
		return fmt.Errorf("it has %s; the limit is %s", banger.Size(size), max)
	}
	// The size in the header can be wrong.
	n, err := io.Copy(w, io.LimitReader(r, int64(max)+1))
	if err == nil && n > int64(max) {
		err = fmt.Errorf("it is larger than the limit of %s", max)
	}
	return err
}
