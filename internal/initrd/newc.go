package initrd

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
)

// Limits of the format and of the kernel that reads it. PATH_MAX counts the
// terminating zero of a name, too.
const (
	maxName = 4096 - 1
	maxFile = math.MaxUint32
	trailer = "TRAILER!!!"
	block   = 512 // archives end at a multiple of it, so that another can follow
)

// File types of a header's mode.
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
)

var zeros [block]byte

// Writer writes one cpio archive in the newc format. Every entry belongs to root and
// is dated 1970, so that the same content gives the same bytes. After an error, every
// further call returns that error.
type Writer struct {
	w       io.Writer
	written int64
	inode   uint32
	err     error
}

// NewWriter starts an archive at the current position of w, which must be a multiple
// of four bytes from the beginning of the initrd.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Dir adds a directory. Its parents must have been added before.
func (w *Writer) Dir(name string, perm fs.FileMode) error {
	return w.entry(header{name: name, mode: typeDir | uint32(perm.Perm())}, nil)
}

// Char adds a character device.
func (w *Writer) Char(name string, perm fs.FileMode, major, minor uint32) error {
	return w.entry(header{name: name, mode: typeChar | uint32(perm.Perm()), major: major, minor: minor}, nil)
}

// File adds a file of exactly size bytes.
func (w *Writer) File(name string, perm fs.FileMode, size int64, data io.Reader) error {
	if size < 0 || size > maxFile {
		return w.fail(fmt.Errorf("add %q: %d bytes are more than a file in an archive can have", name, size))
	}
	return w.entry(header{name: name, mode: typeFile | uint32(perm.Perm()), size: uint32(size)}, data)
}

// Close ends the archive. It does not close the underlying writer.
func (w *Writer) Close() error {
	w.header(header{name: trailer})
	w.pad(block)
	return w.err
}

type header struct {
	name         string
	mode, size   uint32
	major, minor uint32
}

func (w *Writer) entry(h header, data io.Reader) error {
	if !fs.ValidPath(h.name) || h.name == "." || h.name == trailer || len(h.name) > maxName || strings.Contains(h.name, "\x00") {
		return w.fail(fmt.Errorf("add %q: an archive cannot hold this name", h.name))
	}
	w.inode++
	w.header(h)
	if w.err == nil && h.size > 0 {
		n, err := io.CopyN(w.w, data, int64(h.size))
		w.written += n
		if err != nil {
			return w.fail(fmt.Errorf("add %q: %w", h.name, err))
		}
	}
	w.pad(4)
	return w.err
}

// header writes the fields in the format's order: magic, inode, mode, uid, gid,
// links, time, size, the device that holds the file, the device that the file is, the
// length of the name with its zero, and a checksum, which this format does not use.
func (w *Writer) header(h header) {
	inode, links := w.inode, 1
	if h.name == trailer {
		inode = 0
	}
	if h.mode&^0o7777 == typeDir {
		links = 2
	}
	w.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		inode, h.mode, 0, 0, links, 0, h.size, 0, 0, h.major, h.minor, len(h.name)+1, 0, h.name))
	w.pad(4)
}

func (w *Writer) pad(to int64) {
	if over := w.written % to; over != 0 {
		w.write(zeros[:to-over])
	}
}

func (w *Writer) write(p []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(p)
	w.written += int64(n)
	w.err = err
}

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}
