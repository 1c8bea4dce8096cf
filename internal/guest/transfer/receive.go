package transfer

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/linux"
)

// Receiver receives what a Sender sent.
type Receiver struct {
	Path string                 // the destination, as cp understands it
	Name string                 // of the root in an existing directory; empty: its content goes there
	Size func(bytes int64)      // called once if one file is received whose size is known; may be nil
	Note func(path, why string) // called for each file that was left out; may be nil
}

// Receive creates what r has at Path. Each new file, and each new tree, gets its name
// when it is complete; an error, which is a *Failure, leaves no part of it. A file is
// replaced. A directory that exists keeps its mode and what else it holds.
func (r Receiver) Receive(from io.Reader) error {
	in := &receiving{Receiver: r, reader: newReader(from), files: map[uint64]known{}, buffer: make([]byte, maxChunk)}
	err := in.root()
	in.closeAll()
	if err != nil {
		return broken(err)
	}
	return nil
}

// ReceiveStream writes the one file that r has to w. Holes are zeros there.
func ReceiveStream(w io.Writer, from io.Reader, size func(int64)) error {
	in := newReader(from)
	root, err := in.next()
	switch {
	case err != nil:
		return broken(err)
	case root.kind == failed:
		return root.failure()
	case root.kind != file:
		return &Failure{Code: NoFile, Path: root.name, Why: "is not a file, and stdout takes only one file", AtSource: true}
	}
	if size != nil && root.size > 0 {
		size(root.size)
	}
	if err := in.copyTo(w); err != nil {
		return broken(err)
	}
	if err := in.end(); err != nil {
		return broken(err)
	}
	return nil
}

// copyTo writes the content of a file to w.
func (r *reader) copyTo(w io.Writer) error {
	for {
		n, hole, err := r.part()
		if err != nil || n == 0 {
			return err
		}
		var from io.Reader = r
		if hole {
			from = zeros{}
		}
		if _, err := io.CopyN(w, from, n); err != nil {
			return err
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// end reads the word that everything was sent.
func (r *reader) end() error {
	rec, err := r.told()
	if err == nil && rec.kind != done {
		err = foreign("more than one root")
	}
	return err
}

// told reads a record. A failure that the sender tells is an error.
func (r *reader) told() (record, error) {
	rec, err := r.next()
	if err == nil && rec.kind == failed {
		err = rec.failure()
	}
	return rec, err
}

// known is a file that was received and has more names.
type known struct {
	path  string // below the first level
	inode inode
}

// level is an open directory. The first is where the root goes.
type level struct {
	dir  *os.File
	name string
	temp string // its name until it is complete, if that differs
	head record
	made bool // by this copy: so nothing in it has a name of before
}

type receiving struct {
	Receiver
	*reader
	base   string // path of the first level
	single bool   // the root is not a directory
	levels []level
	files  map[uint64]known
	spent  linkBudget
	buffer []byte
}

func (r *receiving) root() error {
	rec, err := r.told()
	if err != nil {
		return err
	}
	if rec.kind != dir && rec.kind != file && rec.kind != link {
		return foreign("a root of kind %q", rec.kind)
	}
	// The sender does not choose the name: it could be that of any file here.
	at, err := find(r.Path, rec.kind, r.Name)
	if err != nil {
		return err
	}
	rec.name, r.base = at.name, at.path
	r.levels = []level{{dir: at.dir}}
	if rec.kind == file && r.Size != nil && rec.size > 0 {
		r.Size(rec.size)
	}
	if rec.kind != dir {
		r.single = true
		return r.take(rec)
	}
	if rec.name != "" {
		if err := r.take(rec); err != nil {
			return err
		}
	}
	return r.entries()
}

// rest reads to the end of the stream, in which there are only notes.
func (r *receiving) rest() error {
	for {
		rec, err := r.next()
		if err == nil && rec.kind == done {
			return nil
		}
		if err == nil {
			err = r.aside(rec)
		}
		if err != nil {
			return broken(err)
		}
	}
}

// aside takes a record that may come anywhere.
func (r *receiving) aside(rec record) error {
	switch rec.kind {
	case note:
		if r.Note != nil {
			r.Note(rec.name, rec.text)
		}
		return nil
	case failed:
		return rec.failure()
	}
	return foreign("a record of kind %q", rec.kind)
}

// entries creates the entries of the root directory, to the end of the stream.
func (r *receiving) entries() error {
	depth := 1
	for {
		rec, err := r.next()
		if err != nil {
			return err
		}
		switch rec.kind {
		case dir, file, link, hardLink:
			if rec.name == "" {
				return foreign("an entry without a name")
			}
			if rec.kind == dir {
				depth++
			}
			err = r.take(rec)
		case up:
			if depth--; depth == 0 {
				err = r.rest()
			}
			if err == nil && len(r.levels) > 1 {
				err = r.leave()
			}
			if err == nil && depth == 0 {
				return nil
			}
		default:
			err = r.aside(rec)
		}
		if err != nil {
			return err
		}
	}
}

// take creates an entry in the current directory.
func (r *receiving) take(rec record) (err error) {
	switch rec.kind {
	case dir:
		err = r.enter(rec)
	case file:
		err = r.create(rec, func(dir *os.File, name string) error { return r.write(dir, name, rec) })
	case link:
		err = r.create(rec, func(dir *os.File, name string) error { return symlink(dir, name, rec) })
	case hardLink:
		err = r.create(rec, func(dir *os.File, name string) error { return r.link(dir, name, rec) })
	}
	if err != nil {
		return fail(r.path(rec.name), err)
	}
	return nil
}

func (r *receiving) here() *level { return &r.levels[len(r.levels)-1] }

// below returns the names from the first level to name in the current one.
func (r *receiving) below(name string) string {
	var names []string
	for _, l := range r.levels[1:] {
		names = append(names, l.name)
	}
	return strings.Join(append(names, name), "/")
}

func (r *receiving) path(name string) string { return filepath.Join(r.base, r.below(name)) }

// kindOf returns the file type of a name in dir; 0 if there is none.
func kindOf(dir *os.File, name string) (uint32, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return 0, nil
	}
	return st.Mode & unix.S_IFMT, err
}

// temporary returns a name for what is not complete yet.
func temporary() string {
	var b [6]byte
	rand.Read(b[:])
	return ".banger-cp-" + hex.EncodeToString(b[:])
}

// enter opens a directory, and makes it first if there is none.
func (r *receiving) enter(rec record) error {
	here := r.here()
	if len(r.levels) > maxDepth {
		return foreign("too many levels")
	}
	is, err := kindOf(here.dir, rec.name)
	if err != nil {
		return err
	}
	next := level{name: rec.name, head: rec}
	switch {
	case is == unix.S_IFDIR && !here.made:
	case is != 0 && here.made:
		return foreign("two entries of one name")
	case is != 0:
		return &Failure{Code: Exists, Path: r.path(rec.name), Why: "exists, and is not a directory"}
	default:
		next.made = true
		name := rec.name
		if !here.made {
			next.temp = temporary()
			name = next.temp
		}
		if err := unix.Mkdirat(int(here.dir.Fd()), name, 0o700); err != nil {
			return err
		}
	}
	name := rec.name
	if next.temp != "" {
		name = next.temp
	}
	fd, err := unix.Openat(int(here.dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if next.temp != "" {
			unix.Unlinkat(int(here.dir.Fd()), next.temp, unix.AT_REMOVEDIR)
		}
		return err
	}
	next.dir = os.NewFile(uintptr(fd), name)
	r.levels = append(r.levels, next)
	return nil
}

// leave ends the current directory. A new one gets its mode and time, and its name.
func (r *receiving) leave() error {
	done, above := r.here(), r.levels[len(r.levels)-2].dir
	name := done.name
	if done.temp != "" {
		name = done.temp
	}
	if done.made {
		if err := finish(done.dir, above, name, done.head); err != nil {
			return fail(r.path(""), err)
		}
	}
	if done.temp != "" {
		if err := unix.Renameat(int(above.Fd()), done.temp, int(above.Fd()), done.name); err != nil {
			return fail(r.path(""), err)
		}
	}
	done.dir.Close()
	r.levels = r.levels[:len(r.levels)-1]
	return nil
}

// finish gives what is open as f, and has this name in dir, its mode and time.
func finish(f, dir *os.File, name string, head record) error {
	if head.mode&anyMode != 0 {
		return nil
	}
	if err := unix.Fchmod(int(f.Fd()), head.mode&permissions); err != nil {
		return err
	}
	return setTime(dir, name, head)
}

func setTime(dir *os.File, name string, head record) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: head.sec, Nsec: head.nsec}}
	return unix.UtimesNanoAt(int(dir.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW)
}

// create lets make create an entry and gives it its name, in place of a file or a link.
func (r *receiving) create(rec record, make func(dir *os.File, name string) error) error {
	here := r.here()
	if here.made {
		err := make(here.dir, rec.name)
		if errors.Is(err, fs.ErrExist) {
			err = foreign("two entries of one name")
		}
		return err
	}
	switch is, err := kindOf(here.dir, rec.name); {
	case err != nil:
		return err
	case is == unix.S_IFDIR:
		return &Failure{Code: Exists, Path: r.path(rec.name), Why: isDirectory}
	case is != 0 && is != unix.S_IFREG && is != unix.S_IFLNK:
		return &Failure{Code: Exists, Path: r.path(rec.name), Why: "is " + special(is)}
	}
	temp, dir := temporary(), int(here.dir.Fd())
	err := make(here.dir, temp)
	if err == nil && r.single {
		err = r.rest()
	}
	if err == nil {
		err = unix.Renameat(dir, temp, dir, rec.name)
	}
	// A rename onto another name of the same file does nothing.
	unix.Unlinkat(dir, temp, 0)
	return err
}

func (r *receiving) write(dir *os.File, name string, rec record) error {
	var old unix.Stat_t
	mode := uint32(0o600)
	if rec.mode&anyMode != 0 {
		mode = 0o666
		if unix.Fstatat(int(dir.Fd()), rec.name, &old, unix.AT_SYMLINK_NOFOLLOW) == nil && old.Mode&unix.S_IFMT == unix.S_IFREG {
			mode = 0o600
		}
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := r.content(f); err != nil {
		return err
	}
	if rec.mode&anyMode != 0 && mode == 0o600 {
		if err := unix.Fchmod(fd, old.Mode&permissions); err != nil {
			return err
		}
	}
	if err := finish(f, dir, name, rec); err != nil {
		return err
	}
	if rec.id != 0 {
		r.remember(f, rec)
	}
	return f.Close()
}

// content writes a file's content. Its holes stay holes.
func (r *receiving) content(f *os.File) error {
	at, length := int64(0), int64(0)
	for {
		n, hole, err := r.part()
		if err != nil {
			return broken(err)
		}
		if n == 0 {
			break
		}
		if n > maxHole-at {
			return foreign("a file of more than 2^63 bytes")
		}
		if !hole {
			if _, err := io.ReadFull(r, r.buffer[:n]); err != nil {
				return broken(err)
			}
			if _, err := f.WriteAt(r.buffer[:n], at); err != nil {
				return err
			}
			length = at + n
		}
		at += n
	}
	if at == length {
		return nil
	}
	return f.Truncate(at)
}

// remember keeps where a file is that has more names.
func (r *receiving) remember(f *os.File, rec record) {
	var st unix.Stat_t
	path := r.below(rec.name)
	if unix.Fstat(int(f.Fd()), &st) != nil || !r.spent.take(len(path)) {
		return
	}
	r.files[rec.id] = known{path, inodeOf(&st)}
}

func symlink(dir *os.File, name string, rec record) error {
	if err := unix.Symlinkat(rec.text, int(dir.Fd()), name); err != nil {
		return err
	}
	return setTime(dir, name, rec)
}

// link gives a file that was received another name.
func (r *receiving) link(dir *os.File, name string, rec record) error {
	file, ok := r.files[rec.id]
	if !ok {
		return foreign("a link to an unknown file")
	}
	if err := unix.Linkat(int(r.levels[0].dir.Fd()), r.now(file.path), int(dir.Fd()), name, 0); err != nil {
		return err
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && inodeOf(&st) != file.inode {
		err = &Failure{Path: r.path(rec.name), Why: "somebody else changed the tree"}
		unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	return err
}

// now returns a path below the first level as it is until the new directory on it is
// complete.
func (r *receiving) now(path string) string {
	names := strings.Split(path, "/")
	for i, l := range r.levels[1:] {
		if i >= len(names)-1 || names[i] != l.name {
			break
		}
		if l.temp != "" {
			names[i] = l.temp
		}
	}
	return strings.Join(names, "/")
}

// closeAll closes the directories, and removes the new one that is not complete.
func (r *receiving) closeAll() {
	for i, l := range r.levels {
		if l.temp != "" {
			removeAll(linux.Through(r.levels[i-1].dir, l.temp))
		}
	}
	for _, l := range r.levels {
		l.dir.Close()
	}
}

// removeAll removes a tree, whose directories may have got modes that forbid it.
func removeAll(path string) {
	if os.RemoveAll(path) == nil {
		return
	}
	filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	os.RemoveAll(path)
}
