package kernel

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ulikunitz/xz"
)

// Limits of a kernel package, many times above what one needs.
const (
	maxFiles     = 50_000
	maxUnpacked  = 2 << 30
	maxModule    = 128 << 20
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

// unpack writes the kernel of a package to dir/vmlinuz, and the content of its modules
// directory below dir/modules.
func unpack(ctx context.Context, deb, release, dir string) error {
	file, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer file.Close()
	data, err := findMember(bufio.NewReaderSize(file, 1<<20), "data.tar.xz")
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(deb), err)
	}
	plain, err := xz.NewReader(bufio.NewReader(data)) // unbuffered, xz reads byte by byte
	if err != nil {
		return fmt.Errorf("read data.tar.xz: %w", err)
	}
	if err := unpackTar(ctx, plain, release, dir); err != nil {
		return fmt.Errorf("read data.tar.xz: %w", err)
	}
	return nil
}

// findMember returns the content of one member of an ar archive.
func findMember(r *bufio.Reader, name string) (io.Reader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errors.New("it is not an ar archive")
	}
	header := make([]byte, arHeaderSize)
	for {
		if _, err := io.ReadFull(r, header); err != nil {
			return nil, fmt.Errorf("it has no %s: %w", name, err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(header[48:58])), 10, 64)
		if err != nil || size < 0 || string(header[58:]) != "`\n" {
			return nil, errors.New("a member's header is broken")
		}
		if strings.TrimRight(string(header[:16]), " /") == name {
			return io.LimitReader(r, size), nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, err
		}
	}
}

func unpackTar(ctx context.Context, r io.Reader, release, dir string) error {
	archive := tar.NewReader(r)
	left, kernel := int64(maxUnpacked), false
	for files := 0; ; files++ {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF) && !kernel:
			return fmt.Errorf("it has no kernel of release %s", release)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case files == maxFiles || header.Size > left:
			return errors.New("it is larger than the limit for a kernel package")
		}
		left -= header.Size
		name, ok := wanted(header, release)
		if !ok {
			continue
		}
		kernel = kernel || name == "vmlinuz"
		if err := writeFile(filepath.Join(dir, filepath.FromSlash(name)), archive); err != nil {
			return err
		}
	}
}

// wanted returns where to write a file of the package, below dir. Debian 12 has the
// modules in /lib, Debian 13 in /usr/lib.
func wanted(header *tar.Header, release string) (string, bool) {
	name := strings.TrimPrefix(header.Name, "./")
	if header.Typeflag != tar.TypeReg || !fs.ValidPath(name) {
		return "", false
	}
	if name == "boot/vmlinuz-"+release {
		return "vmlinuz", true
	}
	below, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/"+release+"/")
	return path.Join("modules", below), ok
}

func writeFile(path string, data io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, data); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
