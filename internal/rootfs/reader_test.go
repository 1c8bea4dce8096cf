package rootfs

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// file is a file in an ext4 file system.
type file struct {
	ino      uint32
	mode     uint16 // as in stat(2)
	uid, gid uint32
	mtime    int64
	links    uint16
	size     int64
	dev      uint32 // as the kernel encodes it
	data     string // contents, or the target of a symbolic link
	xattrs   map[string]string
}

// ext4 reads what tar2ext4 writes: extents of depth one at most, linear directories, no
// journal, no checksums.
type ext4 struct {
	t              testing.TB
	image          []byte
	label          string
	uuid           [16]byte
	inodesPerGroup uint32
}

var le = binary.LittleEndian

// readTree reads the whole file system at path.
func readTree(t testing.TB, path string) (*ext4, map[string]file) {
	t.Helper()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return readImage(t, image)
}

func readImage(t testing.TB, image []byte) (*ext4, map[string]file) {
	t.Helper()
	sb := image[superblock:]
	if le.Uint16(sb[0x38:]) != 0xef53 {
		t.Fatal("no ext4 superblock")
	}
	if want := int64(le.Uint32(sb[4:])) * blockSize; want != int64(len(image)) {
		t.Errorf("the file has %d bytes, the file system %d", len(image), want)
	}
	e := &ext4{t: t, image: image, inodesPerGroup: le.Uint32(sb[0x28:]), label: strings.TrimRight(string(sb[0x78:0x88]), "\x00")}
	copy(e.uuid[:], sb[0x68:])
	tree := map[string]file{}
	e.walk(2, "", tree)
	return e, tree
}

func (e *ext4) walk(ino uint32, path string, tree map[string]file) {
	f := e.file(ino)
	tree[path] = f
	if f.mode>>12 != 4 {
		return
	}
	for b := []byte(f.data); len(b) > 0; {
		child, length, n := le.Uint32(b), le.Uint16(b[4:]), int(b[6])
		name := string(b[8 : 8+n])
		if child != 0 && name != "." && name != ".." {
			full := strings.TrimPrefix(path+"/"+name, "/")
			if _, twice := tree[full]; twice {
				e.t.Errorf("%s is in its directory twice", full)
			}
			e.walk(child, full, tree)
		}
		b = b[length:]
	}
}

func (e *ext4) raw(ino uint32) []byte {
	group, index := (ino-1)/e.inodesPerGroup, (ino-1)%e.inodesPerGroup
	table := le.Uint32(e.image[blockSize+32*group+8:])
	return e.image[int64(table)*blockSize+int64(index)*256:][:256]
}

func (e *ext4) file(ino uint32) file {
	n := e.raw(ino)
	seconds := int64(int32(le.Uint32(n[0x10:]))) + int64(le.Uint32(n[0x88:])&3)<<32
	f := file{
		ino: ino, mode: le.Uint16(n), links: le.Uint16(n[0x1a:]), mtime: seconds,
		uid:    uint32(le.Uint16(n[2:])) | uint32(le.Uint16(n[0x78:]))<<16,
		gid:    uint32(le.Uint16(n[0x18:])) | uint32(le.Uint16(n[0x7a:]))<<16,
		size:   int64(le.Uint32(n[4:])) | int64(le.Uint32(n[0x6c:]))<<32,
		xattrs: map[string]string{},
	}
	const extents = 0x80000
	switch {
	case le.Uint32(n[0x20:])&extents != 0:
		f.data = string(e.extents(n[0x28:0x64], f.size))
	case f.mode>>12 == 10:
		f.data = string(n[0x28:][:f.size])
	case f.mode>>12 == 2 || f.mode>>12 == 6:
		f.dev = le.Uint32(n[0x2c:])
	}
	if inline := n[128+le.Uint16(n[0x80:]):]; le.Uint32(inline) == 0xea020000 {
		e.xattrs(inline[4:], inline[4:], f.xattrs)
	}
	if block := le.Uint32(n[0x68:]); block != 0 {
		b := e.image[int64(block)*blockSize:][:blockSize]
		e.xattrs(b[32:], b, f.xattrs)
	}
	return f
}

func (e *ext4) extents(b []byte, size int64) []byte {
	data := make([]byte, size)
	entries, depth := int(le.Uint16(b[2:])), le.Uint16(b[6:])
	for i := range entries {
		x := b[12*(i+1):]
		if depth > 0 {
			leaf := e.image[int64(le.Uint32(x[4:]))*blockSize:][:blockSize]
			copy(data, e.extents(leaf, size))
			continue
		}
		from := e.image[int64(le.Uint32(x[8:]))*blockSize:][:int64(le.Uint16(x[4:]))*blockSize]
		copy(data[min(size, int64(le.Uint32(x))*blockSize):], from)
	}
	return data
}

func (e *ext4) xattrs(entries, values []byte, into map[string]string) {
	prefixes := map[byte]string{1: "user.", 2: aclAccess, 3: aclDefault, 4: "trusted.", 6: "security."}
	for b := entries; le.Uint32(b) != 0; b = b[(int(b[0])+3)&^3+16:] {
		offset, size := le.Uint16(b[2:]), le.Uint32(b[8:])
		into[prefixes[b[1]]+string(b[16:16+int(b[0])])] = string(values[offset : uint32(offset)+size])
	}
}

// leftovers returns what is in dir, except for the given names.
func leftovers(t testing.TB, dir string, names ...string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, name := range names {
		known[filepath.Base(name)] = true
	}
	var left []string
	for _, e := range entries {
		if !known[e.Name()] {
			left = append(left, e.Name())
		}
	}
	return left
}

// blocks returns how much disk space a file uses.
func blocks(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}
