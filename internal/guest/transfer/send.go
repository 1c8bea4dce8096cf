package transfer

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Sender sends one file or tree.
type Sender struct {
	Path        string
	FollowLinks bool              // send what symbolic links below Path lead to
	Size        func(bytes int64) // called once if one file is sent whose size is known; may be nil
}

// Send writes Path, or what a link at Path leads to, to w. What is neither file,
// directory nor link is left out with a note, and so is what disappears meanwhile and
// what the kernel only simulates, such as /proc. An error is a *Failure, about which the
// reader of w is told, or an error of w.
func (s Sender) Send(w io.Writer) error {
	out := &sending{Sender: s, writer: newWriter(w), numbers: map[inode]uint64{}, buffer: make([]byte, maxChunk)}
	if err := out.root(); err != nil {
		f := atSource(fail(s.Path, err))
		out.fail(f)
		return errors.Join(f, out.Flush())
	}
	out.put(record{kind: done})
	return out.Flush()
}

// SendStream writes what r has as one file.
func SendStream(w io.Writer, r io.Reader) error {
	out := newWriter(w)
	out.put(record{kind: file, mode: anyMode})
	for buffer := make([]byte, maxChunk); ; {
		n, err := r.Read(buffer)
		if n > 0 {
			out.data(buffer[:n])
		}
		if err == io.EOF {
			out.endOfFile()
			out.put(record{kind: done})
			return out.Flush()
		}
		if err != nil {
			f := atSource(fail("stdin", err))
			out.breakFile()
			out.fail(f)
			return errors.Join(f, out.Flush())
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
}

func atSource(f *Failure) *Failure {
	f.AtSource = true
	return f
}

type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} }

type sending struct {
	Sender
	*writer
	numbers map[inode]uint64 // of files with several names
	spent   linkBudget
	above   []inode // the directories around the one that is sent
	buffer  []byte
}

// root sends the entry that the path names.
func (s *sending) root() error {
	path := s.Path
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFREG:
		if s.Size != nil {
			s.Size(st.Size)
		}
	default:
		return &Failure{Code: NoFile, Path: path, Why: "is " + special(st.Mode)}
	}
	return s.entry(unix.AT_FDCWD, path, "", path, 0, &st)
}

// special names what is not copied.
func special(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFIFO:
		return "a named pipe"
	}
	return "a device"
}

// entry sends the file at, as name. path is for messages.
func (s *sending) entry(parent int, at, name, path string, flags int, st *unix.Stat_t) error {
	head := record{name: name, mode: st.Mode & permissions, sec: int64(st.Mtim.Sec), nsec: int64(st.Mtim.Nsec)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		head.kind = dir
		return s.directory(parent, at, path, flags, head)
	case unix.S_IFREG:
		head.kind = file
		return s.regular(parent, at, path, flags, head)
	case unix.S_IFLNK:
		head.kind = link
		return s.symlink(parent, at, path, head)
	}
	s.leaveOut(path, special(st.Mode))
	return nil
}

func (s *sending) leaveOut(path, why string) {
	s.put(record{kind: note, name: cut(path), text: why})
}

// open opens an entry, and returns what it is by then.
func open(parent int, at string, flags, more int) (*os.File, *unix.Stat_t, error) {
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		more |= unix.O_NOFOLLOW
	}
	// Without O_NONBLOCK, a named pipe in the file's place would block.
	fd, err := unix.Openat(parent, at, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY|more, 0)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), at), &st, nil
}

func (s *sending) symlink(parent int, at, path string, head record) error {
	b := make([]byte, maxText+1)
	n, err := unix.Readlinkat(parent, at, b)
	if err == nil && n > maxText {
		err = unix.ENAMETOOLONG
	}
	if err != nil {
		return s.vanished(path, err)
	}
	head.text = string(b[:n])
	s.put(head)
	return nil
}

// vanished leaves out what disappeared while the tree was read.
func (s *sending) vanished(path string, err error) error {
	if !errors.Is(err, os.ErrNotExist) || len(s.above) == 0 {
		return fail(path, err)
	}
	s.leaveOut(path, "it disappeared")
	return nil
}

func (s *sending) directory(parent int, at, path string, flags int, head record) error {
	f, st, err := open(parent, at, flags, unix.O_DIRECTORY)
	if err != nil {
		return s.vanished(path, err)
	}
	defer f.Close()
	switch {
	case slices.Contains(s.above, inodeOf(st)):
		return &Failure{Path: path, Why: "the link leads to a directory above it"}
	case len(s.above) == maxDepth-1:
		return &Failure{Path: cut(path), Why: "the tree has too many levels"}
	case len(s.above) > 0 && s.above[len(s.above)-1].dev != uint64(st.Dev) && simulated(f):
		s.leaveOut(path, "the kernel only simulates its files")
		return nil
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fail(path, err)
	}
	slices.Sort(names)
	s.put(head)
	s.above = append(s.above, inodeOf(st))
	defer func() { s.above = s.above[:len(s.above)-1] }()
	for _, name := range names {
		if err := s.child(int(f.Fd()), name, strings.TrimRight(path, "/")+"/"+name); err != nil {
			return err
		}
	}
	s.put(record{kind: up})
	return nil
}

// simulated reports whether a file system occupies no space at all, like those on
// /proc and /sys.
func simulated(dir *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(dir.Fd()), &st) == nil && st.Blocks == 0
}

func (s *sending) child(parent int, name, path string) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if s.FollowLinks {
		flags = 0
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, flags); err != nil {
		return s.vanished(path, err)
	}
	if err := s.entry(parent, name, name, path, flags, &st); err != nil {
		return err
	}
	if s.Buffered() == 0 {
		return nil
	}
	// An error of the stream is kept; it ends a large tree early.
	_, err := s.Write(nil)
	return err
}

func (s *sending) regular(parent int, at, path string, flags int, head record) error {
	f, st, err := open(parent, at, flags, 0)
	if err != nil {
		return s.vanished(path, err)
	}
	defer f.Close()
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return s.vanished(path, os.ErrNotExist)
	}
	head.size = st.Size
	if st.Nlink > 1 {
		if id, known := s.numbers[inodeOf(st)]; known {
			s.put(record{kind: hardLink, name: head.name, id: id})
			return nil
		}
		if s.spent.take(len(path)) {
			head.id = uint64(len(s.numbers) + 1)
			s.numbers[inodeOf(st)] = head.id
		}
	}
	s.put(head)
	if err := s.content(f, st); err != nil {
		s.breakFile()
		return fail(path, err)
	}
	s.endOfFile()
	return nil
}

// linkBudget bounds what both ends remember of files with several names. Files beyond
// it are sent once for each name.
type linkBudget struct{ files, bytes int }

func (b *linkBudget) take(path int) bool {
	b.files++
	b.bytes += path
	return b.files <= 1<<18 && b.bytes <= 32<<20
}

// content sends a file up to the size that it had, or to its end if it said that it had
// none, as the files of /proc do.
func (s *sending) content(f *os.File, st *unix.Stat_t) error {
	size := st.Size
	switch {
	case size == 0:
		return s.span(f, 0, maxHole)
	case st.Blocks*512 >= size: // there is no hole
		return s.span(f, 0, size)
	}
	for at := int64(0); at < size; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			s.hole(size - at)
			return nil
		}
		if err != nil {
			return s.span(f, at, size) // the file system does not tell its holes
		}
		from = min(from, size)
		if from > at {
			s.hole(from - at)
		}
		end, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			end = size
		}
		if at = min(end, size); at > from {
			if err := s.span(f, from, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// span sends the bytes of a file between two offsets, or up to its end.
func (s *sending) span(f *os.File, at, end int64) error {
	for at < end {
		n, err := f.ReadAt(s.buffer[:min(int64(len(s.buffer)), end-at)], at)
		if n > 0 {
			s.data(s.buffer[:n])
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := s.Write(nil); err != nil {
			return &Failure{Code: Interrupted, Why: err.Error()}
		}
		at += int64(n)
	}
	return nil
}
