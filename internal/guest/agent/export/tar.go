package export

import (
	"bufio"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Package archive/tar would be a large part of the agent, which needs only to write.

// tarBlock is the unit of a tar archive.
const tarBlock = 512

// archive writes a tar archive in the POSIX format.
type archive struct{ *bufio.Writer }

// entry is one name in an archive.
type entry struct {
	name, target string // relative to the root; the target of a link
	kind         byte   // as the format has it
	mode         uint32
	uid, gid     uint32
	size, mtime  int64
	major, minor uint32
	attributes   map[string][]byte
}

// Kinds of entries.
const (
	kindFile      = '0'
	kindHardLink  = '1'
	kindLink      = '2'
	kindCharacter = '3'
	kindBlock     = '4'
	kindDirectory = '5'
	kindPipe      = '6'
	kindExtended  = 'x'
)

// Widths and the largest values of the fields of a header.
const (
	maxShort    = 100       // bytes in a name or a target
	maxNumber   = 1<<21 - 1 // of 7 octal digits
	maxLong     = 1<<33 - 1 // of 11 octal digits
	maxExtended = 4 << 20   // bytes in an extended header, far more than a file has attributes
)

// put writes the header of an entry. Exactly as many bytes as its size must follow, and
// then an end.
func (a archive) put(e entry) error {
	e.mtime = max(e.mtime, 0)
	if records := e.extended(); len(records) > 0 {
		if len(records) > maxExtended {
			return &os.PathError{Op: "export", Path: e.name, Err: unix.E2BIG}
		}
		a.header(entry{name: "extended", kind: kindExtended, mode: 0o644, size: int64(len(records))})
		a.Write(records)
		a.end(int64(len(records)))
	}
	a.header(e)
	_, err := a.Write(nil) // the buffer keeps an earlier error
	return err
}

// end fills the last block of what follows a header.
func (a archive) end(size int64) {
	a.Write(make([]byte, (tarBlock-size%tarBlock)%tarBlock))
}

// finish ends the archive.
func (a archive) finish() error {
	a.Write(make([]byte, 2*tarBlock))
	return a.Flush()
}

// extended returns the records of what does not fit into a header.
func (e entry) extended() []byte {
	var records []byte
	add := func(key string, value []byte) {
		records = append(records, record(key, value)...)
	}
	if !fits(e.name) {
		add("path", []byte(e.name))
	}
	if !fits(e.target) {
		add("linkpath", []byte(e.target))
	}
	for _, n := range []struct {
		key        string
		value, max int64
	}{{"uid", int64(e.uid), maxNumber}, {"gid", int64(e.gid), maxNumber}, {"size", e.size, maxLong}, {"mtime", e.mtime, maxLong}} {
		if n.value > n.max {
			add(n.key, strconv.AppendInt(nil, n.value, 10))
		}
	}
	for name, value := range e.attributes {
		add("SCHILY.xattr."+name, value)
	}
	return records
}

// fits reports whether a header can hold a name.
func fits(name string) bool {
	for i := range len(name) {
		if name[i] >= 0x80 {
			return false
		}
	}
	return len(name) <= maxShort
}

// record returns one record of an extended header, which begins with its own length.
func record(key string, value []byte) []byte {
	rest := len(key) + len(value) + len(" =\n")
	size := rest + len(strconv.Itoa(rest))
	if len(strconv.Itoa(size)) > len(strconv.Itoa(rest)) {
		size++
	}
	text := append(strconv.AppendInt(nil, int64(size), 10), ' ')
	text = append(append(text, key...), '=')
	return append(append(text, value...), '\n')
}

func (a archive) header(e entry) {
	var block [tarBlock]byte
	text := func(at, width int, s string) { copy(block[at:at+width], s) }
	number := func(at, width int, n, most int64) {
		if n > most {
			n = 0 // an extended header has it
		}
		digits := strconv.FormatInt(n, 8)
		for i := range width - 1 {
			block[at+i] = '0'
		}
		copy(block[at+width-1-len(digits):], digits)
	}
	if fits(e.name) {
		text(0, maxShort, e.name)
	}
	number(100, 8, int64(e.mode), maxNumber)
	number(108, 8, int64(e.uid), maxNumber)
	number(116, 8, int64(e.gid), maxNumber)
	number(124, 12, e.size, maxLong)
	number(136, 12, e.mtime, maxLong)
	block[156] = e.kind
	if fits(e.target) {
		text(157, maxShort, e.target)
	}
	text(257, 8, "ustar\x0000")
	number(329, 8, int64(e.major), maxNumber)
	number(337, 8, int64(e.minor), maxNumber)
	sum := int64(8 * ' ') // the field of the sum counts as spaces
	for _, b := range block {
		sum += int64(b)
	}
	number(148, 7, sum, maxNumber)
	block[155] = ' '
	a.Write(block[:])
}

// content writes size bytes of r. A file that has become shorter is filled with zeros: its
// header has been sent.
func (a archive) content(r io.Reader, size int64) error {
	n, err := io.Copy(a.Writer, io.LimitReader(r, size))
	if err != nil {
		return err
	}
	for zeros := make([]byte, 32<<10); n < size; {
		part := min(size-n, int64(len(zeros)))
		if _, err := a.Write(zeros[:part]); err != nil {
			return err
		}
		n += part
	}
	a.end(size)
	return nil
}
