package rootfs

import "archive/tar"

// link adds a hard link: one more name for the inode that the target has now. What
// the target's name becomes later does not matter.
func (x *index) link(at position, parent *node, name string, h *tar.Header) error {
	target, err := x.find(h.Name, h.Linkname)
	if err != nil {
		return err
	}
	if target == nil || target.inode.kind == forward {
		err := x.put(parent, name, at.layer, &inode{kind: forward, at: at, target: h.Linkname})
		x.forward = append(x.forward, parent.children[name])
		return err
	}
	if target.inode.kind == directory {
		return refuse(h.Name, "it is a hard link to the directory %q", short(h.Linkname))
	}
	if target == parent.children[name] {
		return nil
	}
	return x.put(parent, name, at.layer, target.inode)
}

// endLayer resolves hard links that came before their targets. plan refuses a link
// that has no target, unless another entry has replaced it.
func (x *index) endLayer() error {
	for _, n := range x.forward {
		found, err := x.resolve(n.inode)
		if err != nil {
			return err
		}
		if found != nil {
			n.inode = found
		}
	}
	x.forward = nil
	return nil
}

// resolve follows hard links to hard links. It takes a chain longer than maxHops for
// a loop.
func (x *index) resolve(from *inode) (*inode, error) {
	for range maxHops {
		target, err := x.find(from.target, from.target)
		if err != nil || target == nil || target.inode.kind == directory {
			return nil, err
		}
		if target.inode.kind != forward {
			return target.inode, nil
		}
		from = target.inode
	}
	return nil, nil
}
