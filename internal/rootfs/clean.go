package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"time"

	"banger"
)

const (
	maxName   = 255                    // bytes in one part of a path, ext4's limit
	maxTarget = 4095                   // bytes in a symbolic link
	maxTime   = 0x37fffffff            // seconds since 1970, ext4's limit
	maxID     = 1<<32 - 2              // to the kernel, -1 means "no change"
	maxFile   = int64(32 * banger.GiB) // above about 42 GiB tar2ext4 writes wrong extents
	maxMajor  = 1<<12 - 1
	maxMinor  = 1<<20 - 1
)

var errEmpty = errors.New("the archive is empty")

// refuse returns the error of an entry that cannot be in a file system.
func refuse(entry, format string, args ...any) error {
	return &banger.Error{Kind: banger.Invalid, What: fmt.Sprintf("archive entry %q", short(entry)), Why: fmt.Errorf(format, args...), Fix: "create the archive without this entry"}
}

// tooMuch returns the error of an archive beyond a limit.
func tooMuch(format string, args ...any) error {
	return &banger.Error{Kind: banger.Invalid, What: "read archive", Why: fmt.Errorf(format, args...), Fix: "create a smaller archive"}
}

// short cuts a name, so that a hostile one cannot fill a log.
func short(name string) string {
	if len(name) > 200 {
		return name[:200] + "..."
	}
	return name
}

// skipped reports whether an entry describes the archive and is not a file.
func skipped(h *tar.Header) bool {
	const volumeLabel = 'V'
	return h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == volumeLabel
}

// clean returns a copy of an entry that is safe to write. Its name is relative to the
// root. Every field in the copy has been checked or bounded.
func clean(h *tar.Header) (*tar.Header, error) {
	name, err := cleanPath(h.Name, h.Name)
	if err != nil {
		return nil, err
	}
	mtime := clampTime(h.ModTime)
	c := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Mode: h.Mode & 0o7777,
		Uid: h.Uid, Gid: h.Gid, Format: tar.FormatPAX,
		ModTime: mtime, AccessTime: mtime, ChangeTime: mtime,
	}
	if c.Uid < 0 || c.Uid > maxID || c.Gid < 0 || c.Gid > maxID {
		return nil, refuse(h.Name, "no user or group can have the ids %d:%d", h.Uid, h.Gid)
	}
	if err := cleanKind(c, h); err != nil {
		return nil, err
	}
	if c.Typeflag == tar.TypeLink {
		return c, nil
	}
	c.PAXRecords, err = cleanXattrs(h)
	return c, err
}

// cleanKind sets the fields that depend on the kind of the entry.
func cleanKind(c, h *tar.Header) (err error) {
	const contiguous = '7'
	switch h.Typeflag {
	case tar.TypeReg, contiguous, tar.TypeGNUSparse:
		c.Typeflag, c.Size = tar.TypeReg, h.Size
		if h.Size > maxFile {
			return refuse(h.Name, "it is larger than %v", banger.Size(maxFile))
		}
	case tar.TypeLink:
		c.Linkname, err = cleanPath(h.Name, h.Linkname)
	case tar.TypeSymlink:
		c.Linkname = h.Linkname
		if h.Linkname == "" || len(h.Linkname) > maxTarget {
			return refuse(h.Name, "it is a symbolic link whose target has %d bytes", len(h.Linkname))
		}
	case tar.TypeChar, tar.TypeBlock:
		c.Devmajor, c.Devminor = h.Devmajor, h.Devminor
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return refuse(h.Name, "there is no device %d:%d", h.Devmajor, h.Devminor)
		}
	case tar.TypeDir, tar.TypeFifo:
	default:
		return refuse(h.Name, "its type %q is unknown", h.Typeflag)
	}
	return err
}

// cleanPath returns a path relative to the root: "./a", "/a" and "a//" become "a".
func cleanPath(entry, path string) (string, error) {
	parts := strings.Split(path, "/")
	kept := parts[:0]
	for _, part := range parts {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return "", refuse(entry, "the name %q contains ..", short(path))
		case len(part) > maxName:
			return "", refuse(entry, "a part of its name is longer than %d bytes", maxName)
		case strings.IndexByte(part, 0) >= 0:
			return "", refuse(entry, "its name contains a zero byte")
		default:
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "/"), nil
}

func clampTime(t time.Time) time.Time {
	if t.Unix() < 0 {
		return time.Unix(0, 0)
	}
	if t.Unix() > maxTime {
		return time.Unix(maxTime, 0)
	}
	return t
}
