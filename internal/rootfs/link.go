package rootfs

import "archive/tar"

// link takes in a hard link: one more name for the inode that the target is
// now. What the target's name becomes later does not matter.
func (x *index) link(at position, parent *node, name string, h *tar.Header) error {
	target, err := x.find(h.Name, h.Linkname)
	if err != nil {
		return err
	}
	if target == nil {
		x.forward = append(x.forward, h.Name)
		return x.put(parent, name, at.layer, &inode{kind: forward, at: at, target: h.Linkname})
	}
	if target.inode.kind == directory {
		return refuse(h.Name, "it is a hard link to the directory %q", short(h.Linkname))
	}
	if target == parent.children[name] {
		return nil
	}
	return x.put(parent, name, at.layer, target.inode)
}

// endLayer gives links that came before their targets their inodes.
func (x *index) endLayer() error {
	for _, name := range x.forward {
		n, err := x.find(name, name)
		if err != nil {
			return err
		}
		// Something else may have taken the name since.
		if n == nil || n.inode.kind != forward {
			continue
		}
		if n.inode, err = x.resolve(name, n.inode); err != nil {
			return err
		}
	}
	x.forward = nil
	return nil
}

// resolve follows links to links. A chain longer than maxHops is a loop.
func (x *index) resolve(name string, from *inode) (*inode, error) {
	for range maxHops {
		target, err := x.find(name, from.target)
		if err != nil {
			return nil, err
		}
		if target == nil {
			return nil, refuse(name, "it is a hard link to %q, which is not in the archive", short(from.target))
		}
		switch target.inode.kind {
		case directory:
			return nil, refuse(name, "it is a hard link to the directory %q", short(from.target))
		case forward:
			from = target.inode
		default:
			return target.inode, nil
		}
	}
	return nil, refuse(name, "it is a hard link to itself")
}
