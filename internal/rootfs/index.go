package rootfs

import (
	"archive/tar"
	"errors"
	"strings"

	"banger"
	"banger/internal/linux"
)

// Limits against archives that are made to exhaust their reader. They are far above
// what an operating system needs.
const (
	maxData     = int64(48 * banger.GiB)        // bytes in all files, with holes
	maxStream   = maxData + int64(4*banger.GiB) // bytes in all archives, unpacked
	maxNodes    = 2_000_000                     // names ever added, with implied ones
	maxMetadata = int64(256 * banger.MiB)       // bytes in names, link targets and attributes
	maxSteps    = 4096                          // directories passed to find one name
	maxWork     = 200_000_000                   // directories passed to find all names
	maxHops     = 40                            // symbolic links passed to find one name
)

// position is where an entry lies in the archives. The second reading finds by it
// what the first has decided.
type position struct{ layer, entry int }

type kind int

const (
	other kind = iota // files, devices and the like
	directory
	symlink
	forward // a hard link whose target has not been read yet
)

// inode is a file, which can have several names.
type inode struct {
	kind   kind
	at     position
	header *tar.Header // of directories and blank files; other headers are read again
	target string      // of a symlink or a forward link
	names  []string    // in the finished tree; plan sets them
}

// node is a name in the tree. Only directories have children.
type node struct {
	inode    *inode
	layer    int // the last one that has an entry for it
	children map[string]*node
}

// stacking is whether names can remove what lower layers have.
type stacking int

const (
	plain stacking = iota
	layered
)

// index is the tree that the archives make: later entries win, as if each layer had
// been unpacked over those below. It holds no file content.
type index struct {
	stacking stacking
	root     *node
	forward  []*node // hard links whose targets have not been read yet
	nodes    int
	work     int
	data     int64
	metadata int64
	programs map[position]linux.Program
}

func newIndex(s stacking) *index {
	return &index{stacking: s, programs: map[position]linux.Program{},
		root: &node{inode: impliedDirectory(), layer: -1, children: map[string]*node{}}}
}

// impliedDirectory returns a parent directory that has no entry of its own.
func impliedDirectory() *inode {
	return &inode{kind: directory, header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, Format: tar.FormatPAX}}
}

// add adds one entry to the tree.
func (x *index) add(at position, h *tar.Header) error {
	if skipped(h) {
		return nil
	}
	h, err := clean(h)
	if err != nil {
		return err
	}
	if err := x.account(h); err != nil {
		return err
	}
	dir, name := splitPath(h.Name)
	if x.stacking == layered && strings.HasPrefix(name, whiteout) {
		return x.whiteout(at.layer, h.Name, dir, name)
	}
	parent, err := x.directory(h.Name, dir, at.layer, implied)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return refuse(h.Name, "the root can only be a directory")
		}
		x.root.inode, x.root.layer = &inode{kind: directory, at: at, header: h}, at.layer
		return nil
	}
	if h.Typeflag == tar.TypeLink {
		return x.link(at, parent, name, h)
	}
	return x.put(parent, name, at.layer, newInode(at, h))
}

func newInode(at position, h *tar.Header) *inode {
	n := &inode{at: at}
	switch h.Typeflag {
	case tar.TypeDir:
		n.kind, n.header = directory, h
	case tar.TypeSymlink:
		n.kind, n.target = symlink, h.Linkname
	}
	return n
}

// account adds an entry to the sums and checks their limits.
func (x *index) account(h *tar.Header) error {
	x.data += h.Size
	x.metadata += int64(len(h.Name) + len(h.Linkname))
	for key, value := range h.PAXRecords {
		x.metadata += int64(len(key) + len(value))
	}
	if x.data > maxData {
		return tooMuch("the archive holds more than %v", banger.Size(maxData))
	}
	if x.metadata > maxMetadata {
		return tooMuch("the names and attributes in the archive take more than %v", banger.Size(maxMetadata))
	}
	return nil
}

// put sets what a name is. A directory over a directory keeps its content; anything
// else replaces what was there.
func (x *index) put(parent *node, name string, layer int, n *inode) error {
	if old := parent.children[name]; old != nil && old.inode.kind == directory && n.kind == directory {
		old.inode, old.layer = n, layer
		return nil
	}
	x.nodes++
	if x.nodes > maxNodes {
		return tooMuch("the archive has more than %d names", maxNodes)
	}
	made := &node{inode: n, layer: layer}
	if n.kind == directory {
		made.children = map[string]*node{}
	}
	parent.children[name] = made
	return nil
}

// missing is what to do about a directory that does not exist.
type missing int

const (
	absent  missing = iota // return nil
	implied                // create it, and replace a file in the way
)

var errLoop = errors.New("it lies behind too many symbolic links")

// directory returns the directory at path. It follows symbolic links, which never
// lead out of the tree.
func (x *index) directory(entry, path string, layer int, m missing) (*node, error) {
	way := []*node{x.root}
	todo := strings.Split(path, "/")
	for steps, hops := 0, 0; len(todo) > 0; steps++ {
		if steps > maxSteps || hops > maxHops {
			return nil, refuse(entry, "%w", errLoop)
		}
		if x.work++; x.work > maxWork {
			return nil, tooMuch("the names in the archive are too deep in directories")
		}
		part := todo[0]
		todo = todo[1:]
		here := way[len(way)-1]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			way = way[:max(1, len(way)-1)]
			continue
		}
		next := here.children[part]
		if next != nil && next.inode.kind == symlink {
			hops++
			if strings.HasPrefix(next.inode.target, "/") {
				way = way[:1]
			}
			todo = append(strings.Split(next.inode.target, "/"), todo...)
			x.work += len(todo)
			continue
		}
		if next == nil || next.inode.kind != directory {
			if m == absent {
				return nil, nil
			}
			if err := x.put(here, part, layer, impliedDirectory()); err != nil {
				return nil, err
			}
			next = here.children[part]
		}
		way = append(way, next)
	}
	return way[len(way)-1], nil
}

// find returns the node at a path, or nil. It does not follow a symbolic link at the
// end of the path.
func (x *index) find(entry, path string) (*node, error) {
	dir, name := splitPath(path)
	parent, err := x.directory(entry, dir, 0, absent)
	if err != nil || parent == nil {
		return nil, err
	}
	return parent.children[name], nil
}

func splitPath(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}
