package rootfs

import (
	"archive/tar"
	"strings"
)

// What belongs to one machine. With it, an image would give every VM the same
// identity, or the state of the machine that the image was made on.
var (
	resetDrop = []string{
		".dockerenv",
		"etc/hostname",
		"etc/resolv.conf",
		"etc/ssh/ssh_host_*",
		"var/lib/banger/hostname",
		"var/lib/dbus/machine-id",
		"var/lib/systemd/credential.secret",
		"var/lib/systemd/random-seed",
	}
	resetBlank = []string{"etc/machine-id"} // kept as an empty file: systemd then takes the id it is given
	resetEmpty = []string{"dev", "proc", "run", "sys", "tmp", "var/tmp"}

	// These lose their files and keep their directories, which have owners and
	// access lists.
	resetFiles = []string{"var/cache/apt", "var/lib/apt/lists", "var/log"}
)

func (x *index) reset() {
	for _, path := range resetDrop {
		dir, name := splitPath(path)
		if parent := x.literal(dir); parent != nil {
			parent.drop(name)
		}
	}
	for _, path := range resetBlank {
		dir, name := splitPath(path)
		if parent := x.literal(dir); parent != nil && parent.children[name] != nil {
			parent.children[name] = &node{inode: &inode{header: &tar.Header{Typeflag: tar.TypeReg, Mode: 0o444, Format: tar.FormatPAX}}}
		}
	}
	for _, path := range resetEmpty {
		if n := x.literal(path); n != nil {
			clear(n.children)
		}
	}
	for _, path := range resetFiles {
		if n := x.literal(path); n != nil {
			n.dropFiles()
		}
	}
}

// literal returns the node at a path, or nil. It does not follow symbolic links.
func (x *index) literal(path string) *node {
	n := x.root
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		if n = n.children[part]; n == nil {
			return nil
		}
	}
	return n
}

// drop deletes a name or, if it ends in a star, all names with that prefix.
func (n *node) drop(name string) {
	prefix, wild := strings.CutSuffix(name, "*")
	for child := range n.children {
		if child == name || wild && strings.HasPrefix(child, prefix) {
			delete(n.children, child)
		}
	}
}

func (n *node) dropFiles() {
	for name, child := range n.children {
		if child.inode.kind == other {
			delete(n.children, name)
		}
		child.dropFiles()
	}
}
