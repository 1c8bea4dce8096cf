// Package export sends the guest's root file system to the host as an archive, or what it
// changed of the image. It only reads. It does not decide what an image is.
package export

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/wire"
	"banger/internal/linux"
)

// Run answers the wire.Export on stdin to stdout. It returns the exit status.
func Run() int {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serve(in io.Reader, out io.Writer) error {
	line, err := bufio.NewReaderSize(in, wire.MaxExport).ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read what to export: %w", err)
	}
	var request wire.Export
	if err := json.Unmarshal(line, &request); err != nil {
		return fmt.Errorf("read what to export: %w", err)
	}
	config, err := layout.ReadConfig(layout.CurrentConfig())
	if err != nil {
		return err
	}
	unix.Sync()
	if request.Changes {
		return sendChanges(out, request)
	}
	return sendRoot(out, request, config)
}

// sendRoot sends the root file system. A clone of its mount alone has nothing of what is
// mounted in it.
func sendRoot(out io.Writer, request wire.Export, config wire.Config) error {
	root, err := mountAlone("/")
	if err != nil {
		return err
	}
	defer root.Close()
	s := &sender{archive: archive{bufio.NewWriterSize(out, 256<<10)}, root: linux.Through(root) + "/.", skip: request.Skip,
		links: map[inode]string{}}
	if request.Home && config.WorkMount != "" {
		home, err := mountAlone(config.WorkMount)
		if err != nil {
			return err
		}
		defer home.Close()
		s.homeAt, s.home = strings.Trim(path.Clean(config.WorkMount), "/"), linux.Through(home)+"/."
	}
	return s.send()
}

// mountAlone returns the file system at a path, without what is mounted below.
func mountAlone(at string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("look below the mounts of %s: %w", at, err)
	}
	return os.NewFile(uintptr(fd), at), nil
}

// inode identifies a file. Other than in the transfer of a tree, all of them are the
// image's, so that their number is bounded by what the guest's disk holds.
type inode struct{ dev, ino uint64 }

// sender sends a tree.
type sender struct {
	archive
	root   string // directory with the tree
	homeAt string // name of the directory that is taken from home; empty: none is
	home   string
	skip   []string
	links  map[inode]string // first names of the files that have several
}

func (s *sender) send() error {
	if err := s.tree(""); err != nil {
		return err
	}
	return s.finish()
}

// place returns the file at a name of the tree.
func (s *sender) place(name string) string {
	if rest, below := strings.CutPrefix(name, s.homeAt); s.homeAt != "" && below && (rest == "" || rest[0] == '/') {
		return s.home + rest
	}
	if name == "" {
		return s.root
	}
	return s.root + "/" + name
}

// tree sends a name and everything below it.
func (s *sender) tree(name string) error {
	file := s.place(name)
	var st unix.Stat_t
	err := unix.Lstat(file, &st)
	if errors.Is(err, fs.ErrNotExist) && name != "" {
		return nil // it has just been deleted
	}
	if err != nil {
		return &os.PathError{Op: "stat", Path: "/" + name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return s.leaf(name, file, &st)
	}
	if err := s.entry(name, file, &st, entry{kind: kindDirectory}); err != nil {
		return err
	}
	children, err := os.ReadDir(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, child := range children {
		if !child.IsDir() && s.skips(name) {
			continue
		}
		if err := s.tree(path.Join(name, child.Name())); err != nil {
			return err
		}
	}
	return nil
}

// skips reports whether the files of a directory are left out.
func (s *sender) skips(dir string) bool {
	return slices.ContainsFunc(s.skip, func(skip string) bool { return dir == skip || strings.HasPrefix(dir, skip+"/") })
}

// leaf sends what is not a directory.
func (s *sender) leaf(name, file string, st *unix.Stat_t) error {
	key := inode{uint64(st.Dev), st.Ino}
	if first, known := s.links[key]; known {
		return s.put(entry{name: name, target: first, kind: kindHardLink})
	}
	if st.Nlink > 1 {
		s.links[key] = name
	}
	e := entry{major: unix.Major(uint64(st.Rdev)), minor: unix.Minor(uint64(st.Rdev))}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return s.regular(name, file)
	case unix.S_IFLNK:
		to, err := os.Readlink(file)
		if err != nil {
			return err
		}
		e.kind, e.target = kindLink, to
	case unix.S_IFCHR:
		e.kind = kindCharacter
	case unix.S_IFBLK:
		e.kind = kindBlock
	case unix.S_IFIFO:
		e.kind = kindPipe
	default:
		return nil // a socket is of no use without its program
	}
	return s.entry(name, file, st, e)
}

// regular sends a file with its content, as both are when it is opened.
func (s *sender) regular(name, file string) error {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	content, size := io.Reader(f), st.Size
	if name == hostsFile {
		text, err := s.hosts(f)
		if err != nil {
			return err
		}
		content, size = strings.NewReader(text), int64(len(text))
	}
	if err := s.entry(name, file, &st, entry{kind: kindFile, size: size}); err != nil {
		return err
	}
	if err := s.content(content, size); err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	return nil
}

// hostsFile is where the agent names the guest.
const hostsFile = "etc/hosts"

// maxHosts is more than a file of host names has.
const maxHosts = 16 << 20

// hosts returns the text of the file of host names without the name of this VM, which the
// next VM of the image would keep.
func (s *sender) hosts(f io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(f, maxHosts))
	if err != nil {
		return "", err
	}
	name, err := os.ReadFile(s.root + layout.HostNameMemory)
	if err != nil {
		return string(text), nil
	}
	own := "127.0.1.1\t" + strings.TrimSpace(string(name))
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.TrimSuffix(line, "\n") != own {
			kept.WriteString(line)
		}
	}
	return kept.String(), nil
}

// entry sends the header of a file with its owner, mode, time and attributes.
func (s *sender) entry(name, file string, st *unix.Stat_t, e entry) error {
	e.name, e.mode, e.uid, e.gid, e.mtime = name, st.Mode&0o7777, st.Uid, st.Gid, int64(st.Mtim.Sec)
	if name == "" {
		e.name = "./"
	}
	var err error
	if e.attributes, err = attributes(file); err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	return s.put(e)
}

// attributes returns the extended attributes of a file, except those of overlayfs.
func attributes(file string) (map[string][]byte, error) {
	n, err := unix.Llistxattr(file, nil)
	if err == unix.ENOTSUP || err == unix.ENOENT || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	list := make([]byte, n+4096) // some may come meanwhile
	if n, err = unix.Llistxattr(file, list); err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	all := map[string][]byte{}
	value := make([]byte, 64<<10) // the most that the kernel takes
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		if size, err := unix.Lgetxattr(file, name, value); err == nil {
			all[name] = slices.Clone(value[:size])
		}
	}
	return all, nil
}
