package transfer

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"strings"
)

// kind is the first byte of a record.
type kind byte

const (
	dir      kind = 'd' // its entries follow, and an up
	file     kind = 'f' // its content follows
	link     kind = 'l' // a symbolic link to text
	hardLink kind = 'h' // another name of the file with this id
	up       kind = 'u' // the end of a directory
	note     kind = 'n' // something for the user: a file that was left out
	done     kind = 'e' // the end: everything was sent, or received
	failed   kind = 'x' // the end: a Failure
)

// record is an entry of a tree, or a word about the copy.
type record struct {
	kind kind
	name string // of an entry; the root's may be empty. Of a note or a failure: the path
	mode uint32
	sec  int64 // the time of the last change
	nsec int64
	size int64  // of a file, where it is known: it may change while it is sent
	id   uint64 // of a file that has more names: its number
	text string // a link's target, or why a file was left out or a copy failed
	code Code
	of   bool // a failure at the source
}

// Limits of what a stream may hold.
const (
	maxName  = 255
	maxText  = 4095
	maxChunk = 256 << 10
	maxDepth = 1000 // each level is an open directory
	maxHole  = math.MaxInt64
)

// anyMode stands for the mode that a file gets from its user's umask.
const anyMode = 1 << 31

// permissions are the bits of a mode that are copied: the owner may differ, and so
// nobody's rights go with a file.
const permissions = 0o1777

type writer struct{ *bufio.Writer }

func newWriter(w io.Writer) *writer { return &writer{bufio.NewWriterSize(w, 64<<10)} }

func (w *writer) number(n uint64) {
	var b [binary.MaxVarintLen64]byte
	w.Write(b[:binary.PutUvarint(b[:], n)])
}

func (w *writer) string(s string) {
	w.number(uint64(len(s)))
	w.WriteString(s)
}

// put writes a record. The buffer keeps an error for the next Flush.
func (w *writer) put(r record) {
	w.WriteByte(byte(r.kind))
	switch r.kind {
	case dir, file, link:
		w.string(r.name)
		w.number(uint64(r.mode))
		w.number(uint64(r.sec))
		w.number(uint64(r.nsec))
	case hardLink, note, failed:
		w.string(r.name)
	}
	switch r.kind {
	case file:
		w.number(uint64(r.size))
		w.number(r.id)
	case hardLink:
		w.number(r.id)
	case link, note:
		w.string(r.text)
	case failed:
		w.string(r.text)
		w.WriteByte(byte(r.code))
		w.number(uint64(flag(r.of)))
	}
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fail writes a failure, cut to what a reader accepts.
func (w *writer) fail(f *Failure) {
	w.put(record{kind: failed, name: cut(f.Path), text: cut(f.Why), code: f.Code, of: f.AtSource})
}

func cut(s string) string { return s[:min(len(s), maxText)] }

// data writes a part of a file's content.
func (w *writer) data(b []byte) {
	w.number(uint64(len(b)) << 1)
	w.Write(b)
}

// hole writes a part of a file that has no content.
func (w *writer) hole(n int64) { w.number(uint64(n)<<1 | 1) }

func (w *writer) endOfFile() { w.number(0) }

// breakFile ends a file that cannot be read to its end. A failure follows.
func (w *writer) breakFile() { w.number(1) }

type reader struct{ *bufio.Reader }

func newReader(r io.Reader) *reader { return &reader{bufio.NewReaderSize(r, 64<<10)} }

func (r *reader) number(limit uint64) (uint64, error) {
	n, err := binary.ReadUvarint(r)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, err
	}
	if n > limit {
		return 0, foreign("the number %d", n)
	}
	return n, nil
}

func (r *reader) string(limit uint64) (string, error) {
	n, err := r.number(limit)
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return string(b), err
}

// next reads a record.
func (r *reader) next() (record, error) {
	b, err := r.ReadByte()
	if err != nil {
		return record{}, err
	}
	rec := record{kind: kind(b)}
	switch rec.kind {
	case dir, file, link, hardLink:
		err = r.entry(&rec)
	case note, failed:
		err = r.word(&rec)
	case up, done:
	default:
		err = foreign("a record of kind %q", b)
	}
	return rec, err
}

// numbers reads numbers until one fails.
func (r *reader) numbers(limits []uint64, to ...func(uint64)) error {
	for i, limit := range limits {
		n, err := r.number(limit)
		if err != nil {
			return err
		}
		to[i](n)
	}
	return nil
}

func (r *reader) entry(rec *record) (err error) {
	if rec.name, err = r.string(maxName); err != nil {
		return err
	}
	if rec.name == "." || rec.name == ".." || strings.ContainsAny(rec.name, "/\x00") {
		return foreign("the name %q", rec.name)
	}
	if rec.kind != hardLink {
		err = r.numbers([]uint64{math.MaxUint32, math.MaxUint64, 999_999_999},
			func(n uint64) { rec.mode = uint32(n) }, func(n uint64) { rec.sec = int64(n) }, func(n uint64) { rec.nsec = int64(n) })
	}
	if err == nil && rec.kind == file {
		err = r.numbers([]uint64{math.MaxInt64}, func(n uint64) { rec.size = int64(n) })
	}
	if err == nil && (rec.kind == file || rec.kind == hardLink) {
		rec.id, err = r.number(math.MaxUint64)
	}
	if err == nil && rec.kind == link {
		rec.text, err = r.string(maxText)
	}
	if err == nil && rec.kind == link && (rec.text == "" || strings.Contains(rec.text, "\x00")) {
		err = foreign("a link to %q", rec.text)
	}
	return err
}

func (r *reader) word(rec *record) (err error) {
	if rec.name, err = r.string(maxText); err != nil {
		return err
	}
	if rec.text, err = r.string(maxText); err != nil || rec.kind == note {
		return err
	}
	return r.numbers([]uint64{uint64(lastCode), 1}, func(n uint64) { rec.code = Code(n) }, func(n uint64) { rec.of = n == 1 })
}

func (rec record) failure() *Failure {
	return &Failure{Code: rec.code, Path: rec.name, Why: rec.text, AtSource: rec.of}
}

// part reads the head of a part of a file's content: its length, and whether it is a
// hole. The end of the file has length 0; a file that is broken off has no end.
func (r *reader) part() (n int64, hole bool, err error) {
	head, err := r.number(math.MaxUint64)
	n, hole = int64(head>>1), head&1 == 1
	switch {
	case err != nil:
		return 0, false, err
	case hole && n == 0:
		rec, err := r.next()
		if err == nil && rec.kind != failed {
			err = foreign("a record of kind %q inside a file", rec.kind)
		}
		if err == nil {
			err = rec.failure()
		}
		return 0, false, err
	case !hole && n > maxChunk:
		return 0, false, foreign("a part of %d bytes", n)
	}
	return n, hole, nil
}
