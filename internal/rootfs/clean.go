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
	maxTime   = 0x37fffffff            // seconds; ext4's last one
	maxID     = 1<<32 - 2              // -1 means "no change" to the kernel
	maxFile   = int64(32 * banger.GiB) // beyond about 42 GiB the writer's extent tree is wrong
	maxMajor  = 1<<12 - 1
	maxMinor  = 1<<20 - 1
)

var errEmpty = errors.New("it is empty")

// refuse is an entry that has no place in a file system.
func refuse(entry, format string, args ...any) error {
	return &banger.Error{Kind: banger.Invalid, What: fmt.Sprintf("archive entry %q", short(entry)), Why: fmt.Errorf(format, args...), Fix: "make the archive again without this entry"}
}

// tooMuch is an archive beyond a limit.
func tooMuch(format string, args ...any) error {
	return &banger.Error{Kind: banger.Invalid, What: "read archive", Why: fmt.Errorf(format, args...), Fix: "make a smaller archive: banger takes no larger one"}
}

// short keeps a hostile name from filling a log.
func short(name string) string {
	if len(name) > 200 {
		return name[:200] + "..."
	}
	return name
}

// skipped tells entries that say something about the archive only.
func skipped(h *tar.Header) bool {
	const volumeLabel = 'V'
	return h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == volumeLabel
}

// clean returns an entry as the writer can take it, with its name relative to
// the root: every field is checked or bounded, and nothing else is passed on.
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
		return nil, refuse(h.Name, "its owner %d:%d does not exist", h.Uid, h.Gid)
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

// cleanKind sets what depends on the kind of the entry.
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
			return refuse(h.Name, "it is a symbolic link to %d bytes of name", len(h.Linkname))
		}
	case tar.TypeChar, tar.TypeBlock:
		c.Devmajor, c.Devminor = h.Devmajor, h.Devminor
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return refuse(h.Name, "there is no device %d:%d", h.Devmajor, h.Devminor)
		}
	case tar.TypeDir, tar.TypeFifo:
	default:
		return refuse(h.Name, "it is of the unknown kind %q", h.Typeflag)
	}
	return err
}

// cleanPath makes a name relative to the root: "./a", "/a" and "a//" are a.
func cleanPath(entry, path string) (string, error) {
	parts := strings.Split(path, "/")
	kept := parts[:0]
	for _, part := range parts {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return "", refuse(entry, "the name %q climbs out of its directory", short(path))
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
