package rootfs

import "strings"

// Names by which a layer removes what the layers below have.
const (
	whiteout     = ".wh."
	whiteoutMeta = ".wh..wh."
	opaque       = ".wh..wh..opq"
)

// whiteout applies an entry that removes something. It removes only what lower layers
// have: what its own layer has there stays, whichever came first.
func (x *index) whiteout(layer int, entry, dir, name string) error {
	parent, err := x.directory(entry, dir, layer, absent)
	if err != nil || parent == nil {
		return err
	}
	if name == opaque {
		parent.hideBelow(layer)
		return nil
	}
	if strings.HasPrefix(name, whiteoutMeta) {
		return nil // bookkeeping of Docker's aufs driver
	}
	name = strings.TrimPrefix(name, whiteout)
	if child := parent.children[name]; child != nil && !child.survives(layer) {
		delete(parent.children, name)
	}
	return nil
}

// hideBelow deletes from a directory what the layer has no entry for.
func (n *node) hideBelow(layer int) {
	for name, child := range n.children {
		if !child.survives(layer) {
			delete(n.children, name)
		}
	}
}

func (n *node) survives(layer int) bool {
	n.hideBelow(layer)
	return n.layer == layer || len(n.children) > 0
}
