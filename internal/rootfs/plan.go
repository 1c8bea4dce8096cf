package rootfs

import (
	"maps"
	"slices"

	"banger"
)

// maxPath is the longest path that a kernel opens.
const maxPath = 4095

// plan is what the second reading of the archives writes.
type plan struct {
	made    []*inode            // written first, from their headers: directories and blank files
	files   map[position]*inode // written when their entries are read
	entries int
	paths   int64 // bytes in all paths
}

// plan walks the finished tree in the order of names, so that the same archives
// always give the same file system.
func (x *index) plan() (*plan, error) {
	if x.nodes == 0 {
		return nil, &banger.Error{Kind: banger.Invalid, Why: errEmpty, Fix: "create the archive again: it has no entries"}
	}
	// tar2ext4 creates this directory itself.
	delete(x.root.children, "lost+found")
	p := &plan{files: map[position]*inode{}}
	x.root.inode.names = []string{"./"}
	p.made = append(p.made, x.root.inode)
	return p, p.walk(x.root, "")
}

func (p *plan) walk(dir *node, path string) error {
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		child, full := dir.children[name], path+name
		p.entries++
		p.paths += int64(len(full))
		if len(full) > maxPath {
			return refuse(full, "its full path is longer than %d bytes", maxPath)
		}
		if p.paths > maxMetadata {
			return tooMuch("the paths in the archive take more than %v", banger.Size(maxMetadata))
		}
		n := child.inode
		if n.kind == forward {
			return refuse(full, "it is a hard link to %q, which is not a file in the archive", short(n.target))
		}
		n.names = append(n.names, full)
		if n.header != nil && len(n.names) == 1 {
			p.made = append(p.made, n)
		}
		if n.header == nil {
			p.files[n.at] = n
		}
		if err := p.walk(child, full+"/"); err != nil {
			return err
		}
	}
	return nil
}
