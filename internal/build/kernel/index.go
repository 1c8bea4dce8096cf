package kernel

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// The format of kmod's index files: a trie, written children first. All numbers are
// big-endian. The upper bits of an offset tell what the node has.
const (
	indexMagic   = 0xb007f457
	indexVersion = 0x00020001
	hasPrefix    = 0x80000000
	hasChildren  = 0x20000000
	hasValues    = 0x40000000
)

// index maps keys to values as kmod looks them up.
type index struct{ root indexNode }

type indexNode struct {
	prefix   string
	children map[byte]*indexNode
	values   []indexValue
}

type indexValue struct {
	text     string
	priority uint32
}

// add adds a value to a key. The values of a key are sorted by priority, lowest first.
func (x *index) add(key, value string, priority uint32) error {
	for i := range len(key) {
		if key[i] == 0 || key[i] > 127 {
			return fmt.Errorf("index %q: a key must be ASCII", key)
		}
	}
	node := &x.root
	for {
		common := 0
		for common < len(key) && common < len(node.prefix) && key[common] == node.prefix[common] {
			common++
		}
		if common < len(node.prefix) {
			node.split(common)
		}
		key = key[common:]
		if key == "" {
			node.insert(indexValue{value, priority})
			return nil
		}
		child, ok := node.children[key[0]]
		if !ok {
			child = &indexNode{prefix: key[1:]}
			if node.children == nil {
				node.children = map[byte]*indexNode{}
			}
			node.children[key[0]] = child
			child.insert(indexValue{value, priority})
			return nil
		}
		node, key = child, key[1:]
	}
}

// split cuts the node's prefix in two: the part after at moves to a child.
func (n *indexNode) split(at int) {
	rest := &indexNode{prefix: n.prefix[at+1:], children: n.children, values: n.values}
	*n = indexNode{prefix: n.prefix[:at], children: map[byte]*indexNode{n.prefix[at]: rest}}
}

func (n *indexNode) insert(v indexValue) {
	at := slices.IndexFunc(n.values, func(other indexValue) bool { return other.priority >= v.priority })
	if at < 0 {
		at = len(n.values)
	}
	n.values = slices.Insert(n.values, at, v)
}

// writeTo writes the index file.
func (x *index) writeTo(w io.Writer) error {
	out := binary.BigEndian.AppendUint32(nil, indexMagic)
	out = binary.BigEndian.AppendUint32(out, indexVersion)
	out = append(out, 0, 0, 0, 0) // the root's offset, set at the end
	out, root := x.root.append(out)
	binary.BigEndian.PutUint32(out[8:], root)
	_, err := w.Write(out)
	return err
}

func (n *indexNode) append(out []byte) ([]byte, uint32) {
	var first, last byte
	var offsets []uint32
	if len(n.children) > 0 {
		first, last = 255, 0
		for char := range n.children {
			first, last = min(first, char), max(last, char)
		}
		offsets = make([]uint32, int(last)-int(first)+1)
		for i := range offsets {
			if child := n.children[first+byte(i)]; child != nil {
				out, offsets[i] = child.append(out)
			}
		}
	}
	at := uint32(len(out))
	if n.prefix != "" {
		at |= hasPrefix
		out = append(append(out, n.prefix...), 0)
	}
	if offsets != nil {
		at |= hasChildren
		out = append(out, first, last)
		for _, offset := range offsets {
			out = binary.BigEndian.AppendUint32(out, offset)
		}
	}
	if len(n.values) > 0 {
		at |= hasValues
		out = binary.BigEndian.AppendUint32(out, uint32(len(n.values)))
		for _, v := range n.values {
			out = binary.BigEndian.AppendUint32(out, v.priority)
			out = append(append(out, v.text...), 0)
		}
	}
	return out, at
}
