package oci

import (
	"archive/tar"
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

const (
	maxMembers = 10_000 // files in an archive of an image; a system may have more
	maxLinks   = 8      // from a member to the next
)

// systems are directories of which every root file system has one.
var systems = []string{"bin", "etc", "sbin", "usr"}

// OpenArchive opens the image in a tar archive, which is not compressed. It returns nil
// if the archive is something else, or cannot be read. The caller closes the file once
// the image is not used any more.
func OpenArchive(ctx context.Context, file *os.File) (*Stored, error) {
	members, err := scan(ctx, file)
	if err != nil {
		return nil, err
	}
	prefix, kind := members.kind()
	if kind == "" {
		return nil, nil
	}
	return opened(ctx, archive{file, members, prefix}, kind)
}

// member is a file of an archive, or a link to one.
type member struct {
	at, size int64
	link     string
}

type members map[string]member

// kind returns which file shows that the members are an image, and the directory they
// are in.
func (m members) kind() (prefix, kind string) {
	for name := range m {
		if top, _, _ := strings.Cut(name, "/"); slices.Contains(systems, top) {
			return "", ""
		}
	}
	for _, kind := range []string{layoutFile, savedFile} {
		for name := range m {
			if dir, base := path.Split(name); base == kind && strings.Count(dir, "/") <= 1 {
				return dir, kind
			}
		}
	}
	return "", ""
}

// scan finds the members. It returns none for what is no archive, or not an image's.
func scan(ctx context.Context, file *os.File) (members, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	m := members{}
	for t := tar.NewReader(file); ; { // not buffered: it skips data by seeking, and is where the data is
		h, err := t.Next()
		if err == io.EOF {
			return m, nil
		}
		if err != nil || len(m) > maxMembers {
			return nil, ctx.Err()
		}
		at, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		switch h.Typeflag {
		case tar.TypeReg:
			m[name] = member{at: at, size: h.Size}
		case tar.TypeSymlink:
			m[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			m[name] = member{link: path.Clean(h.Linkname)}
		default:
			m[name] = member{link: name} // it has no content
		}
	}
}

type archive struct {
	file    *os.File
	members members
	prefix  string
}

func (a archive) open(name string) (io.ReadCloser, int64, error) {
	name = a.prefix + name
	for range maxLinks {
		m, ok := a.members[name]
		if !ok {
			break
		}
		if m.link == "" {
			return io.NopCloser(io.NewSectionReader(a.file, m.at, m.size)), m.size, nil
		}
		name = m.link
	}
	return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (archive) Close() error { return nil }
