package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/durable/durabletest"
)

// Short forms of entries.
func dir(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
func sym(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
}
func hard(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

// reg returns a file's header. A PAX record holds its content, which archive removes.
func reg(name, data string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), PAXRecords: map[string]string{"TEST.data": data}}
}

func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		h.PAXRecords = maps.Clone(h.PAXRecords)
		data := h.PAXRecords["TEST.data"]
		delete(h.PAXRecords, "TEST.data")
		if h.Typeflag != tar.TypeXGlobalHeader {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// flat returns a tree in a form to compare: contents of files, targets of links.
func flat(tree map[string]file) map[string]string {
	out := map[string]string{}
	for name, f := range tree {
		switch f.mode >> 12 {
		case 4:
			out[name] = "/"
		case 10:
			out[name] = "-> " + f.data
		default:
			out[name] = f.data
		}
	}
	delete(out, "")
	delete(out, "lost+found")
	return out
}

func flatten(t testing.TB, opts Options, layers ...[]byte) (*ext4, map[string]file) {
	t.Helper()
	var readers []Layer
	for _, l := range layers {
		readers = append(readers, rewound{bytes.NewReader(l), 0})
	}
	path := filepath.Join(t.TempDir(), "x.ext4")
	if _, err := Flatten(context.Background(), readers, path, opts); err != nil {
		t.Fatal(err)
	}
	return readTree(t, path)
}

func compare(t *testing.T, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[name]; !ok {
			t.Errorf("%s is missing, want %.40q", name, want[name])
		} else if g != want[name] {
			t.Errorf("%s is %.40q, want %.40q", name, g, want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s = %.40q should not be there", name, got[name])
		}
	}
}

func TestTreeOfOneArchive(t *testing.T) {
	long := strings.Repeat(strings.Repeat("d", 99)+"/", 20) + "file"
	tests := []struct {
		name    string
		entries []tar.Header
		want    map[string]string
	}{
		{"the last of a name wins", []tar.Header{reg("a", "old"), reg("b", "other"), reg("./a", "new"), reg("a", "newest")}, map[string]string{"a": "newest", "b": "other"}},
		{"a file becomes a directory", []tar.Header{reg("a", "x"), dir("a/"), reg("a/b", "y")}, map[string]string{"a": "/", "a/b": "y"}},
		{"a directory becomes a file", []tar.Header{dir("a/"), reg("a/b", "y"), reg("a", "x")}, map[string]string{"a": "x"}},
		{"a file is in the way of a member", []tar.Header{reg("a", "x"), reg("a/b", "y")}, map[string]string{"a": "/", "a/b": "y"}},
		{"a directory is described again", []tar.Header{dir("a"), reg("a/b", "y"), dir("a")}, map[string]string{"a": "/", "a/b": "y"}},
		{"implied parents", []tar.Header{reg("a/b/c", "x")}, map[string]string{"a": "/", "a/b": "/", "a/b/c": "x"}},
		{"absolute names", []tar.Header{reg("/a//b", "x")}, map[string]string{"a": "/", "a/b": "x"}},
		{"a long path", []tar.Header{reg(long, "x")}, func() map[string]string {
			want := map[string]string{long: "x"}
			for i, c := range long {
				if c == '/' {
					want[long[:i]] = "/"
				}
			}
			return want
		}()},
		{"names of all kinds", []tar.Header{reg("ä\n\x01", "x"), reg(strings.Repeat("n", 255), "y"), reg(" ", "z")}, map[string]string{"ä\n\x01": "x", strings.Repeat("n", 255): "y", " ": "z"}},
		{"members below a link", []tar.Header{dir("usr/bin"), sym("bin", "usr/bin"), reg("bin/x", "1"), sym("sbin", "/bin"), reg("sbin/y", "2")},
			map[string]string{"usr": "/", "usr/bin": "/", "bin": "-> usr/bin", "sbin": "-> /bin", "usr/bin/x": "1", "usr/bin/y": "2"}},
		{"members below a link to nothing yet", []tar.Header{sym("bin", "usr/bin"), reg("bin/x", "1")}, map[string]string{"bin": "-> usr/bin", "usr": "/", "usr/bin": "/", "usr/bin/x": "1"}},
		{"a link cannot lead out", []tar.Header{sym("up", "../../../etc"), reg("up/x", "1")}, map[string]string{"up": "-> ../../../etc", "etc": "/", "etc/x": "1"}},
		{"hard links", []tar.Header{reg("a", "x"), hard("b", "a"), hard("c", "./b"), reg("a", "y")}, map[string]string{"a": "y", "b": "x", "c": "x"}},
		{"hard links before their targets", []tar.Header{hard("a", "b"), hard("b", "d/c"), hard("gone", "nothing"), reg("d/c", "x"), reg("gone", "here")},
			map[string]string{"a": "x", "b": "x", "d": "/", "d/c": "x", "gone": "here"}},
		{"a hard link to one that is replaced before it is known", []tar.Header{hard("c", "b"), hard("b", "c"), reg("c", "x")}, map[string]string{"b": "x", "c": "x"}},
		{"a link before its target, below a link that goes", []tar.Header{sym("bin", "d"), hard("bin/x", "y"), dir("bin"), reg("y", "1")},
			map[string]string{"bin": "/", "d": "/", "d/x": "1", "y": "1"}},
		{"a hard link to a link", []tar.Header{sym("a", "/target"), hard("b", "a")}, map[string]string{"a": "-> /target", "b": "-> /target"}},
		{"a hard link to itself", []tar.Header{reg("a", "x"), hard("a", "a")}, map[string]string{"a": "x"}},
		{"a hard link through a link", []tar.Header{reg("usr/bin/x", "1"), sym("bin", "usr/bin"), hard("y", "bin/x")},
			map[string]string{"usr": "/", "usr/bin": "/", "usr/bin/x": "1", "bin": "-> usr/bin", "y": "1"}},
		{"a global header", []tar.Header{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "0123"}}, reg("a", "x")}, map[string]string{"a": "x"}},
		{"the file system's own directory", []tar.Header{reg("lost+found", "x"), reg("a", "x")}, map[string]string{"a": "x"}},
		{"whiteouts mean nothing here", []tar.Header{reg("a", "x"), reg(".wh.a", "")}, map[string]string{"a": "x", ".wh.a": ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.ext4")
			result, err := Write(context.Background(), bytes.NewReader(archive(t, tt.entries...)), path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			_, tree := readTree(t, path)
			compare(t, flat(tree), tt.want)
			if result.Entries != len(tt.want) {
				t.Errorf("%d entries, want %d", result.Entries, len(tt.want))
			}
		})
	}
}

func TestLayers(t *testing.T) {
	tests := []struct {
		name string
		base []tar.Header
		top  []tar.Header
		want map[string]string
	}{
		{"a whiteout", []tar.Header{reg("d/a", "x"), reg("d/b", "y")}, []tar.Header{reg("d/.wh.a", "")}, map[string]string{"d": "/", "d/b": "y"}},
		{"a whiteout of a directory", []tar.Header{reg("d/a", "x"), reg("e", "y")}, []tar.Header{reg(".wh.d", "")}, map[string]string{"e": "y"}},
		{"a whiteout of nothing", []tar.Header{reg("a", "x")}, []tar.Header{reg("b/.wh.a", "")}, map[string]string{"a": "x"}},
		{"made anew, then taken away below", []tar.Header{reg("d/a", "x")}, []tar.Header{dir("d"), reg("d/b", "y"), reg(".wh.d", "")}, map[string]string{"d": "/", "d/b": "y"}},
		{"an opaque directory after its contents", []tar.Header{reg("d/a", "x"), reg("d/s/c", "z")}, []tar.Header{reg("d/b", "y"), reg("d/s/new", "n"), reg("d/.wh..wh..opq", "")},
			map[string]string{"d": "/", "d/b": "y", "d/s": "/", "d/s/new": "n"}},
		{"a hard link to what is replaced", []tar.Header{reg("a", "x")}, []tar.Header{hard("b", "a"), reg("a", "y")}, map[string]string{"a": "y", "b": "x"}},
		{"a hard link to what is taken away", []tar.Header{reg("a", "x"), hard("c", "a")}, []tar.Header{hard("b", "a"), reg(".wh.a", "")}, map[string]string{"b": "x", "c": "x"}},
		{"through a link of a lower layer", []tar.Header{dir("usr/bin"), sym("bin", "usr/bin")}, []tar.Header{reg("bin/x", "1")},
			map[string]string{"usr": "/", "usr/bin": "/", "bin": "-> usr/bin", "usr/bin/x": "1"}},
		{"file and directory change places", []tar.Header{reg("a", "x"), reg("b/c", "y")}, []tar.Header{reg("a/z", "1"), reg("b", "2")}, map[string]string{"a": "/", "a/z": "1", "b": "2"}},
		{"bookkeeping of aufs", []tar.Header{reg("a", "x")}, []tar.Header{reg(".wh..wh.plnk", "")}, map[string]string{"a": "x"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, tree := flatten(t, Options{}, archive(t, tt.base...), archive(t, tt.top...))
			compare(t, flat(tree), tt.want)
		})
	}
}

func TestMetadata(t *testing.T) {
	when := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	_, tree := flatten(t, Options{}, archive(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o711, Uid: 1, ModTime: when},
		tar.Header{Typeflag: tar.TypeReg, Name: "suid", Mode: 0o4755, Uid: 100000, Gid: 4_000_000_000, ModTime: when},
		tar.Header{Typeflag: tar.TypeReg, Name: "early", ModTime: time.Unix(-1, 0)},
		tar.Header{Typeflag: tar.TypeReg, Name: "late", ModTime: time.Unix(1<<40, 0)},
		tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3},
		tar.Header{Typeflag: tar.TypeBlock, Name: "big", Devmajor: 259, Devminor: 70000},
		tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600},
		dir("a/b"), hard("hard", "suid"),
	))
	if f := tree[""]; f.mode != 0o40711 || f.uid != 1 {
		t.Errorf("root: %+v", f)
	}
	f := tree["suid"]
	if f.mode != 0o104755 || f.uid != 100000 || f.gid != 4_000_000_000 || f.mtime != when.Unix() || f.links != 2 || f.ino != tree["hard"].ino {
		t.Errorf("suid: %+v, hard: %+v", f, tree["hard"])
	}
	if f := tree["early"]; f.mtime != 0 {
		t.Errorf("early: %v", time.Unix(f.mtime, 0))
	}
	if f := tree["late"]; f.mtime != maxTime {
		t.Errorf("late: %v", time.Unix(f.mtime, 0))
	}
	if f := tree["null"]; f.mode>>12 != 2 || f.dev != 0x103 {
		t.Errorf("null: %+v", f)
	}
	if f := tree["big"]; f.mode>>12 != 6 || f.dev != 70000&0xff|259<<8|(70000&^0xff)<<12 {
		t.Errorf("big: %+v", f)
	}
	if f := tree["fifo"]; f.mode != 0o10600 {
		t.Errorf("fifo: %+v", f)
	}
	if f := tree["a"]; f.mode != 0o40755 || f.links != 3 || f.mtime != 0 {
		t.Errorf("implied parent: %+v", f)
	}
}

func TestXattrs(t *testing.T) {
	acl := func(version uint32, entries ...[3]uint32) string {
		b := le.AppendUint32(nil, version)
		for _, e := range entries {
			b = le.AppendUint16(le.AppendUint16(b, uint16(e[0])), uint16(e[1]))
			if version == 2 || e[0] == 2 || e[0] == 8 {
				b = le.AppendUint32(b, e[2])
			}
		}
		return string(b)
	}
	entries := [][3]uint32{{1, 7, 1<<32 - 1}, {2, 5, 1000}, {4, 5, 1<<32 - 1}, {8, 4, 4}, {0x10, 5, 1<<32 - 1}, {0x20, 5, 1<<32 - 1}}
	with := func(h tar.Header, xattrs map[string]string) tar.Header {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		for k, v := range xattrs {
			h.PAXRecords[xattrPrefix+k] = v
		}
		return h
	}
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	big := strings.Repeat("v", 3900)
	_, tree := flatten(t, Options{}, archive(t,
		with(dir("journal"), map[string]string{aclAccess: acl(2, entries...), aclDefault: acl(2, entries...)}),
		with(reg("ping", "x"), map[string]string{"security.capability": caps, "user.z": "1", "user.aaa": "22"}),
		with(reg("big", "x"), map[string]string{"user.big": big}),
		with(reg("lower", "x"), map[string]string{"trusted.overlay.opaque": "y", "system.other": "x", "nonsense": "x", aclAccess: acl(2)}),
	))
	want := acl(1, entries...)
	if got := tree["journal"].xattrs; got[aclAccess] != want || got[aclDefault] != want {
		t.Errorf("access lists: %x, want %x", got, want)
	}
	compare(t, tree["ping"].xattrs, map[string]string{"security.capability": caps, "user.z": "1", "user.aaa": "22"})
	compare(t, tree["big"].xattrs, map[string]string{"user.big": big})
	compare(t, tree["lower"].xattrs, map[string]string{})
}

func TestRefused(t *testing.T) {
	xattr := func(name, value string) tar.Header {
		h := reg("a", "x")
		h.PAXRecords[xattrPrefix+name] = value
		return h
	}
	many := reg("a", "x")
	for i := range maxXattrs + 1 {
		many.PAXRecords[fmt.Sprintf("%suser.%d", xattrPrefix, i)] = "x"
	}
	chain := []tar.Header{dir("d")}
	for i := range maxHops + 2 {
		chain = append(chain, sym(fmt.Sprintf("l%d", i+1), fmt.Sprintf("l%d", i)))
	}
	tests := map[string][]tar.Header{
		"a name that climbs":             {reg("../evil", "x")},
		"a name that climbs inside":      {reg("a/../b", "x")},
		"a target that climbs":           {reg("a", "x"), hard("b", "../a")},
		"a part that is too long":        {reg(strings.Repeat("n", 256), "x")},
		"a path that is too long":        {reg(strings.Repeat("dir/", 1024)+"x", "x")},
		"a root that is a file":          {reg(".", "x")},
		"a hard link to a directory":     {dir("d"), hard("a", "d")},
		"a later one to a directory":     {hard("a", "d"), dir("d")},
		"a hard link to nothing":         {hard("a", "b")},
		"hard links in a circle":         {hard("a", "b"), hard("b", "a")},
		"a member behind a circle":       {sym("a", "b"), sym("b", "a"), reg("a/x", "1")},
		"a member behind too many links": append(chain, reg(fmt.Sprintf("l%d/x", maxHops+2), "1")),
		"a link with a long target":      {sym("a", strings.Repeat("t", 4096))},
		"an attribute too large":         {xattr("user.big", strings.Repeat("v", 4090))},
		"too many attributes":            {many},
		"an access list of one byte":     {xattr(aclAccess, "\x02")},
		"an access list of version 1":    {xattr(aclAccess, "\x01\x00\x00\x00")},
		"an access list of strange tags": {xattr(aclAccess, "\x02\x00\x00\x00\x03\x00\x07\x00\xff\xff\xff\xff")},
		"an empty archive":               {},
		"a device that cannot be":        {tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 5000}},
	}
	for name, entries := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Write(context.Background(), bytes.NewReader(archive(t, entries...)), filepath.Join(dir, "x.ext4"), Options{})
			if banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "" {
				t.Errorf("%v (kind %s, fix %q)", err, banger.KindOf(err), banger.FixOf(err))
			}
			if left := leftovers(t, dir); left != nil {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestLimits: a header of a few hundred bytes can claim any size, and nothing of that size
// may be read.
func TestLimits(t *testing.T) {
	header := func(size int64) []byte {
		var buf bytes.Buffer
		h := tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: size, Format: tar.FormatPAX}
		if err := tar.NewWriter(&buf).WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	path := filepath.Join(t.TempDir(), "x.ext4")
	for name, data := range map[string][]byte{
		"a file beyond the limit": header(maxFile + 1),
		"a piece of an archive":   header(100),
		"no archive at all":       bytes.Repeat([]byte("x"), 2000),
	} {
		_, err := Write(context.Background(), bytes.NewReader(data), path, Options{})
		if banger.KindOf(err) != banger.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	x := newIndex(plain)
	for i := range 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint(i), Size: maxFile}
		if err := x.add(position{0, i}, h); i == 1 && banger.KindOf(err) != banger.Invalid {
			t.Errorf("all files beyond the limit: %v", err)
		}
	}
	x = newIndex(plain)
	x.nodes = maxNodes
	if err := x.add(position{}, &tar.Header{Typeflag: tar.TypeDir, Name: "a"}); banger.KindOf(err) != banger.Invalid {
		t.Errorf("more names than the limit: %v", err)
	}
}

func TestReset(t *testing.T) {
	_, tree := flatten(t, Options{Reset: true}, archive(t,
		reg("etc/hostname", "host"), reg("etc/hosts", "keep"), reg("etc/resolv.conf", "x"), reg("etc/machine-id", "0123"),
		reg("etc/ssh/ssh_host_rsa_key", "x"), reg("etc/ssh/ssh_host_rsa_key.pub", "x"), reg("etc/ssh/sshd_config", "keep"),
		reg(".dockerenv", ""), hard("var/lib/dbus/machine-id", "etc/machine-id"), reg("var/lib/systemd/random-seed", "x"),
		reg("tmp/a/b", "x"), dir("run/lock"), tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3},
		reg("var/log/journal/0123/system.journal", "x"), reg("var/log/dpkg.log", "x"), sym("var/log/README", "x"),
		reg("var/lib/apt/lists/deb_Packages", "x"), dir("var/lib/apt/lists/partial"), reg("var/cache/apt/pkgcache.bin", "x"),
		reg("var/lib/docker/image", "keep"), reg("root/.bashrc", "keep"),
	))
	compare(t, flat(tree), map[string]string{
		"etc": "/", "etc/hosts": "keep", "etc/machine-id": "", "etc/ssh": "/", "etc/ssh/sshd_config": "keep",
		"var": "/", "var/lib": "/", "var/lib/dbus": "/", "var/lib/systemd": "/", "tmp": "/", "run": "/", "dev": "/",
		"var/log": "/", "var/log/journal": "/", "var/log/journal/0123": "/", "var/log/README": "-> x",
		"var/lib/apt": "/", "var/lib/apt/lists": "/", "var/lib/apt/lists/partial": "/", "var/cache": "/", "var/cache/apt": "/",
		"var/lib/docker": "/", "var/lib/docker/image": "keep", "root": "/", "root/.bashrc": "keep",
	})
}

func TestFileIsReproducibleLabelledAndReadOnly(t *testing.T) {
	data := archive(t, reg("b", "x"), reg("a/b", "y"), hard("c", "b"))
	dir := t.TempDir()
	one, two := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	disk := durabletest.New(t, dir)
	first, err := Write(context.Background(), bytes.NewReader(data), one, Options{Label: "banger-test"})
	if err != nil {
		t.Fatal(err)
	}
	// The archive of a reader without Seek is copied first.
	second, err := Write(context.Background(), struct{ io.Reader }{bytes.NewReader(data)}, two, Options{Label: "banger-test"})
	if err != nil {
		t.Fatal(err)
	}
	if first != second || !strings.HasPrefix(string(first.Digest), "sha256:") {
		t.Errorf("%+v and %+v", first, second)
	}
	info, err := os.Stat(one)
	if err != nil || info.Mode() != 0o444 || info.Size() != int64(first.Size) {
		t.Errorf("%v, %v", info, err)
	}
	e, _ := readTree(t, one)
	if e.label != "banger-test" || e.uuid == [16]byte{} {
		t.Errorf("label %q, uuid %x", e.label, e.uuid)
	}
	if left := leftovers(t, dir, one, two); left != nil {
		t.Errorf("left: %v", left)
	}
	disk.Check(dir)
	if _, err := Write(context.Background(), bytes.NewReader(data), one, Options{Label: "longer than sixteen"}); err == nil {
		t.Error("a label that does not fit was taken")
	}
}

func TestHolesStayHoles(t *testing.T) {
	const size = 64 << 20
	data := make([]byte, size)
	copy(data[size/2:], "middle")
	path := filepath.Join(t.TempDir(), "x.ext4")
	if _, err := Write(context.Background(), bytes.NewReader(archive(t, reg("a", string(data)))), path, Options{}); err != nil {
		t.Fatal(err)
	}
	_, tree := readTree(t, path)
	if tree["a"].data != string(data) {
		t.Error("the contents differ")
	}
	if used := blocks(t, path); used > 1<<20 {
		t.Errorf("%d bytes on disk", used)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	data := archive(t, reg("a", strings.Repeat("x", 4<<20)))
	// The second reading is cut off in the middle of the file.
	r := &cuttingReader{ReadSeeker: bytes.NewReader(data), cut: cancel}
	_, err := Write(ctx, r, filepath.Join(dir, "x.ext4"), Options{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if left := leftovers(t, dir); left != nil {
		t.Errorf("left: %v", left)
	}
}

// cuttingReader calls cut soon after it is read from its start for the second time.
type cuttingReader struct {
	io.ReadSeeker
	cut   func()
	seeks int
}

func (r *cuttingReader) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart && offset == 0 {
		r.seeks++
	}
	return r.ReadSeeker.Seek(offset, whence)
}

func (r *cuttingReader) Read(p []byte) (int, error) {
	if r.seeks == 2 {
		r.cut()
	}
	return r.ReadSeeker.Read(p[:min(len(p), 64<<10)])
}
