package rootfs

import (
	"archive/tar"
	"errors"
	"strings"

	"banger"
)

// Limits against archives made to exhaust their reader. They are far above
// what an operating system needs.
const (
	maxData     = int64(48 * banger.GiB)  // contents of all files, holes counted
	maxNodes    = 2_000_000               // names ever added, implied ones counted
	maxMetadata = int64(256 * banger.MiB) // names, link targets and attributes
	maxSteps    = 4096                    // directories passed to find one name
	maxWork     = 200_000_000             // directories passed to find all names
	maxHops     = 40                      // symbolic links passed to find one name
)

// position is where an entry lies: archives are read twice, and the second
// time finds by it what the first has decided.
type position struct{ layer, entry int }

type kind int

const (
	other kind = iota // data, devices: whatever has no structure of its own
	directory
	symlink
	forward // a hard link whose target has not come yet
)

// inode is a file, under however many names.
type inode struct {
	kind   kind
	at     position
	header *tar.Header // of directories and of files made here; others are read again
	target string      // of a symlink or a forward link
	names  []string    // in the finished tree, set by plan
}

// node is a name in the tree. Only directories have children.
type node struct {
	inode    *inode
	layer    int // that gave it its last meaning
	children map[string]*node
}

// stacking says whether names can take away what lower layers have.
type stacking int

const (
	plain stacking = iota
	layered
)

// index is the tree that archives amount to: later entries win over earlier
// ones, as if each layer had been unpacked over those below. It holds no data.
type index struct {
	stacking stacking
	root     *node
	forward  []*node // links that wait for their targets
	nodes    int
	work     int
	data     int64
	metadata int64
}

func newIndex(s stacking) *index {
	return &index{stacking: s, root: &node{inode: impliedDirectory(), layer: -1, children: map[string]*node{}}}
}

// impliedDirectory is a parent that no entry describes.
func impliedDirectory() *inode {
	return &inode{kind: directory, header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, Format: tar.FormatPAX}}
}

// add takes in one entry.
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

// account keeps the sums that are bounded.
func (x *index) account(h *tar.Header) error {
	x.data += h.Size
	x.metadata += int64(len(h.Name) + len(h.Linkname))
	for key, value := range h.PAXRecords {
		x.metadata += int64(len(key) + len(value))
	}
	if x.data > maxData {
		return tooMuch("it holds more than %v", banger.Size(maxData))
	}
	if x.metadata > maxMetadata {
		return tooMuch("its names and attributes take more than %v", banger.Size(maxMetadata))
	}
	return nil
}

// put gives a name its new meaning. A directory over a directory keeps what is
// below; anything else replaces what was there.
func (x *index) put(parent *node, name string, layer int, n *inode) error {
	if old := parent.children[name]; old != nil && old.inode.kind == directory && n.kind == directory {
		old.inode, old.layer = n, layer
		return nil
	}
	x.nodes++
	if x.nodes > maxNodes {
		return tooMuch("it has more than %d names", maxNodes)
	}
	made := &node{inode: n, layer: layer}
	if n.kind == directory {
		made.children = map[string]*node{}
	}
	parent.children[name] = made
	return nil
}

// missing says what to do about directories that are not there.
type missing int

const (
	absent  missing = iota // the answer is nil
	implied                // they are made; a file in the way is replaced
)

var errLoop = errors.New("it lies behind too many symbolic links")

// directory finds the directory that path leads to, through symbolic links,
// which end at the root of the tree and never lead out of it.
func (x *index) directory(entry, path string, layer int, m missing) (*node, error) {
	way := []*node{x.root}
	todo := strings.Split(path, "/")
	for steps, hops := 0, 0; len(todo) > 0; steps++ {
		if steps > maxSteps || hops > maxHops {
			return nil, refuse(entry, "%w", errLoop)
		}
		if x.work++; x.work > maxWork {
			return nil, tooMuch("its names lie behind too many directories")
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

// find returns the node of a name, nil when there is none. The last part of
// the name is not followed.
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
