package rootfs

import (
	"archive/tar"
	"errors"
	"io"
	"path"

	"banger/internal/linux"
)

// maxPrograms is how many programs are looked at, far more than a system has.
const maxPrograms = 200_000

// look remembers what a file needs to be started.
func (x *index) look(at position, h *tar.Header, data io.Reader) error {
	if h.Typeflag != tar.TypeReg || h.Mode&0o111 == 0 || len(x.programs) == maxPrograms {
		return nil
	}
	head := make([]byte, min(h.Size, linux.ProgramHead))
	if _, err := io.ReadFull(data, head); err != nil && !errors.Is(err, io.EOF) {
		return broken(err)
	}
	if program := linux.ReadProgram(head); program != (linux.Program{}) {
		x.programs[at] = program
	}
	return nil
}

// Program returns what a file needs to be started, and whether there is one. It follows
// symbolic links.
func (t Tree) Program(name string) (linux.Program, bool) {
	for range maxHops {
		n, err := t.x.find(name, name)
		if err != nil || n == nil || n.inode.kind == directory {
			return linux.Program{}, false
		}
		if n.inode.kind != symlink {
			return t.x.programs[n.inode.at], true
		}
		if target := n.inode.target; path.IsAbs(target) {
			name = target
		} else {
			name = path.Dir(name) + "/" + target
		}
	}
	return linux.Program{}, false
}
