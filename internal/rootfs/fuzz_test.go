package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"banger"
)

// FuzzNormaliser: whatever two archives hold, they are refused as Invalid, or
// what the ext4 writer is given has each name once, below a directory that
// came before it, and is taken by it without a complaint.
func FuzzNormaliser(f *testing.F) {
	acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff"
	withACL := dir("d")
	withACL.PAXRecords = map[string]string{xattrPrefix + aclAccess: acl, xattrPrefix + "user.x": "y"}
	seeds := [][]tar.Header{
		{dir("usr/bin"), sym("bin", "usr/bin"), reg("bin/x", "1"), hard("y", "bin/x"), reg("bin/x", "2")},
		{hard("a", "b"), hard("b", "c"), reg("c", "x"), reg("d/.wh.a", ""), reg("d/.wh..wh..opq", "")},
		{withACL, reg("d/a", "x"), reg("d", "file"), reg("d/a/b", "y"), reg("etc/machine-id", "x")},
		{sym("a", "../b"), sym("b", "/a"), reg("a/x", "1")},
		{reg("../x", ""), reg("/abs", ""), tar.Header{Typeflag: tar.TypeChar, Name: "n", Devmajor: 1, ModTime: time.Unix(-5, 0)}},
	}
	for i, seed := range seeds {
		f.Add(archive(f, seed...), archive(f, seeds[(i+1)%len(seeds)]...))
	}
	f.Fuzz(func(t *testing.T, base, top []byte) {
		l := &layers{ctx: context.Background(), from: []layer{{bytes.NewReader(base), 0}, {bytes.NewReader(top), 0}}}
		x := newIndex(layered)
		if invalid(t, l.index(x)) || x.data > 1<<20 {
			return
		}
		x.reset()
		p, err := x.plan()
		if invalid(t, err) {
			return
		}
		var out bytes.Buffer
		if invalid(t, l.emit(p, &out)) {
			return
		}
		checkEmitted(t, p, out.Bytes())
		disk := &memory{}
		if err := toExt4(&out, disk); err != nil {
			t.Fatalf("the writer refused it: %v", err)
		}
		if _, tree := readImage(t, disk.data); len(tree) != p.entries+2 {
			t.Errorf("%d names in the file system, want %d", len(tree)-2, p.entries)
		}
	})
}

func invalid(t *testing.T, err error) bool {
	if err != nil && banger.KindOf(err) != banger.Invalid {
		t.Fatalf("not an Invalid error: %v", err)
	}
	return err != nil
}

func checkEmitted(t *testing.T, p *plan, archive []byte) {
	kinds := map[string]byte{".": tar.TypeDir}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("read what was written: %v", err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if name == "." {
			continue
		}
		if _, twice := kinds[name]; twice || kinds[path.Dir(name)] != tar.TypeDir || path.Clean(name) != name {
			t.Errorf("%q: twice %v, parent %q", name, twice, kinds[path.Dir(name)])
		}
		if target, ok := kinds[h.Linkname]; h.Typeflag == tar.TypeLink && (!ok || target == tar.TypeDir) {
			t.Errorf("%q links to %q, which is not there yet or a directory", name, h.Linkname)
		}
		kinds[name] = h.Typeflag
	}
	if len(kinds)-1 != p.entries {
		t.Errorf("%d names, want %d", len(kinds)-1, p.entries)
	}
}

// memory is a file without a disk.
type memory struct {
	data []byte
	at   int64
}

func (m *memory) Write(p []byte) (int, error) {
	if end := m.at + int64(len(p)); end > int64(len(m.data)) {
		m.data = append(m.data, make([]byte, end-int64(len(m.data)))...)
	}
	copy(m.data[m.at:], p)
	m.at += int64(len(p))
	return len(p), nil
}

func (m *memory) Read(p []byte) (int, error) {
	n := copy(p, m.data[min(m.at, int64(len(m.data))):])
	m.at += int64(n)
	return n, nil
}

func (m *memory) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += m.at
	case io.SeekEnd:
		offset += int64(len(m.data))
	}
	m.at = offset
	return offset, nil
}
