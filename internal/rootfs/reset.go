package rootfs

import (
	"archive/tar"
	"path"
	"slices"
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

// Volatile returns the directories whose files Reset removes, in whatever depth. What makes
// an archive for Reset may leave them out.
func Volatile() []string { return slices.Concat(resetEmpty, resetFiles) }

// IsReset reports whether Reset removes or empties the file of this name.
func IsReset(name string) bool {
	for _, pattern := range slices.Concat(resetDrop, resetBlank) {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return slices.ContainsFunc(Volatile(), func(dir string) bool { return strings.HasPrefix(name, dir+"/") })
}

func (x *index) reset() {
	for _, file := range resetDrop {
		dir, name := splitPath(file)
		if parent := x.literal(dir); parent != nil {
			parent.drop(name)
		}
	}
	for _, file := range resetBlank {
		dir, name := splitPath(file)
		if parent := x.literal(dir); parent != nil && parent.children[name] != nil {
			parent.children[name] = &node{inode: &inode{header: &tar.Header{Typeflag: tar.TypeReg, Mode: 0o444, Format: tar.FormatPAX}}}
		}
	}
	for _, dir := range resetEmpty {
		if n := x.literal(dir); n != nil {
			clear(n.children)
		}
	}
	for _, dir := range resetFiles {
		if n := x.literal(dir); n != nil {
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
