package rootfs

import "strings"

// Names by which a layer takes away what lies below it.
const (
	whiteout     = ".wh."
	whiteoutMeta = ".wh..wh."
	opaque       = ".wh..wh..opq"
)

// whiteout takes in a name that means an absence. It touches lower layers
// only: what its own layer has put there stays, whichever came first.
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
		return nil // bookkeeping of the aufs driver
	}
	name = strings.TrimPrefix(name, whiteout)
	if child := parent.children[name]; child != nil && !child.survives(layer) {
		delete(parent.children, name)
	}
	return nil
}

// hideBelow drops what no entry of the layer has put into a directory.
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
