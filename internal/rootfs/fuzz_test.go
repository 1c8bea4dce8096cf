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

// Seeds of FuzzTree. A line is an entry; its first letter is the kind, and the target of
// a link follows an arrow. A line of dashes begins the upper layer.
var seeds = []string{
	"dusr/bin\nsbin>usr/bin\nfbin/x\nhy>bin/x\nfbin/x",
	"ha>b\nhb>c\nfc\n--\nfd/.wh.a\nfd/.wh..wh..opq\nf.wh.c\nhe>c",
	"xd\nfd/a\nfd\nfd/a/b\nfetc/machine-id\nfvar/log/a\nftmp/x",
	"sa>../b\nsb>/a\nfa/x",
	"f../x\nf/abs\ncdev/null\ngx\nd.",
	"fa\nhb>a\nhc>b\n--\nda\nfa/.wh.b\nhd>c\nf.wh.c",
}

// FuzzTree: any two archives are either refused as Invalid, or tar2ext4 gets each name
// once, below a directory that came before it, and accepts all of it.
func FuzzTree(f *testing.F) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, script string) {
		base, top, _ := strings.Cut(script, "\n--\n")
		normalise(t, scripted(base), scripted(top))
	})
}

// FuzzArchive does the same with random bytes.
func FuzzArchive(f *testing.F) {
	for _, seed := range seeds {
		f.Add(scripted(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) { normalise(t, data) })
}

// scripted returns an archive, without entries that tar cannot hold.
func scripted(script string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for line := range strings.SplitSeq(script, "\n") {
		if line == "" {
			continue
		}
		name, target, _ := strings.Cut(line[1:], ">")
		h := tar.Header{Name: name, Linkname: target, Mode: int64(len(line)) * 0o111, ModTime: time.Unix(int64(len(line))-9, 0), Format: tar.FormatPAX}
		switch line[0] {
		case 'd':
			h.Typeflag = tar.TypeDir
		case 'x':
			acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff"
			h.Typeflag, h.PAXRecords = tar.TypeDir, map[string]string{xattrPrefix + aclAccess: acl, xattrPrefix + "user." + target: name}
		case 's':
			h.Typeflag = tar.TypeSymlink
		case 'h':
			h.Typeflag = tar.TypeLink
		case 'c':
			h.Typeflag = tar.TypeChar
		case 'g':
			h = tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": name}}
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(line))
		}
		if w.WriteHeader(&h) == nil && h.Size > 0 {
			io.WriteString(w, line)
		}
	}
	w.Close()
	return buf.Bytes()
}

func normalise(t *testing.T, archives ...[]byte) {
	l := &layers{ctx: context.Background()}
	for _, a := range archives {
		l.from = append(l.from, rewound{bytes.NewReader(a), 0})
	}
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

// memory is a file in memory.
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
