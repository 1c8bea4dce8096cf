package export

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// fill creates files below dir, those with a slash at the end as directories.
func fill(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// exported returns what a sender sends, by name.
func exported(t *testing.T, s *sender) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	var out bytes.Buffer
	s.archive, s.links = archive{bufio.NewWriter(&out)}, map[inode]string{}
	if err := s.send(); err != nil {
		t.Fatal(err)
	}
	headers, texts := map[string]*tar.Header{}, map[string]string{}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, texts
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name], texts[h.Name] = h, string(text)
	}
}

// TestExportIsWhole reads an export with another program's reader: names, links, owners,
// modes, times and attributes of every kind are as in the tree.
func TestExportIsWhole(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("long/", 30) + "name"
	fill(t, dir, map[string]string{"etc/issue": "text\n", long: "far", "odd/\xff\n\t": "odd", "empty/": "", "zero": ""})
	when := time.Unix(1_700_000_000, 0)
	for _, err := range []error{
		unix.Chmod(filepath.Join(dir, "etc/issue"), 0o4751),
		os.Chtimes(filepath.Join(dir, "etc/issue"), when, when),
		os.Symlink(strings.Repeat("x/", 80), filepath.Join(dir, "link")),
		os.Link(filepath.Join(dir, "etc/issue"), filepath.Join(dir, "same")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		os.Truncate(filepath.Join(dir, "zero"), 70_000),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	attribute := unix.Setxattr(filepath.Join(dir, "etc/issue"), "user.note", []byte("a\x00b=\n"), 0)
	headers, texts := exported(t, &sender{root: dir})
	for name, want := range map[string]string{"etc/issue": "text\n", long: "far", "odd/\xff\n\t": "odd", "zero": strings.Repeat("\x00", 70_000)} {
		if headers[name] == nil || texts[name] != want {
			t.Errorf("%q is %.40q", name, texts[name])
		}
	}
	if h := headers["etc/issue"]; h.Mode != 0o4751 || h.ModTime.Unix() != when.Unix() || h.Uid != os.Getuid() {
		t.Errorf("etc/issue: %+v", h)
	}
	if attribute == nil && headers["etc/issue"].PAXRecords["SCHILY.xattr.user.note"] != "a\x00b=\n" {
		t.Errorf("etc/issue: %q", headers["etc/issue"].PAXRecords)
	}
	if h := headers["same"]; h.Typeflag != tar.TypeLink || h.Linkname != "etc/issue" {
		t.Errorf("same: %+v", h)
	}
	if h := headers["link"]; h.Typeflag != tar.TypeSymlink || h.Linkname != strings.Repeat("x/", 80) {
		t.Errorf("link: %+v", h)
	}
	if headers["pipe"].Typeflag != tar.TypeFifo || headers["empty"].Typeflag != tar.TypeDir || headers["./"] == nil {
		t.Error("a pipe, an empty directory or the root is missing")
	}
}

// TestNumbersOfAnySize writes owners and times that no header can hold.
func TestNumbersOfAnySize(t *testing.T) {
	var out bytes.Buffer
	a := archive{bufio.NewWriter(&out)}
	if err := a.put(entry{name: "x", kind: kindDirectory, uid: 4_000_000_000, gid: 1 << 21, mtime: 1 << 34}); err != nil {
		t.Fatal(err)
	}
	if err := a.put(entry{name: "device", kind: kindBlock, major: 259, minor: 1 << 19, mtime: -7}); err != nil {
		t.Fatal(err)
	}
	if err := a.finish(); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&out)
	h, err := r.Next()
	if err != nil || h.Uid != 4_000_000_000 || h.Gid != 1<<21 || h.ModTime.Unix() != 1<<34 {
		t.Errorf("%+v, %v", h, err)
	}
	h, err = r.Next()
	if err != nil || h.Devmajor != 259 || h.Devminor != 1<<19 || h.ModTime.Unix() != 0 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestRecordCountsItself(t *testing.T) {
	for size := range 1200 {
		r := record("key", bytes.Repeat([]byte("x"), size))
		var n int
		for _, c := range r[:bytes.IndexByte(r, ' ')] {
			n = n*10 + int(c-'0')
		}
		if n != len(r) {
			t.Fatalf("a record of %d bytes says %d", len(r), n)
		}
	}
}

// TestExportLeavesOut checks what an export does not have: files of skipped directories,
// the VM's name, and what the work disk hides, or else what it has.
func TestExportLeavesOut(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	fill(t, dir, map[string]string{"var/log/apt/term.log": "x", "var/log/a": "x", "var/logs": "kept", "root/image": "x", "rooted": "kept",
		"etc/hosts": "127.0.0.1\tlocalhost\n127.0.1.1\totter\n10.1.1.1\tmine\n", "var/lib/banger/hostname": "otter\n"})
	fill(t, home, map[string]string{"mine": "x"})
	headers, texts := exported(t, &sender{root: dir, skip: []string{"var/log"}})
	if headers["var/log/apt"] == nil || headers["var/log/a"] != nil || headers["var/log/apt/term.log"] != nil || headers["var/logs"] == nil || headers["root/image"] == nil {
		t.Errorf("it has %v", headers)
	}
	if want := "127.0.0.1\tlocalhost\n10.1.1.1\tmine\n"; texts["etc/hosts"] != want {
		t.Errorf("hosts: %q", texts["etc/hosts"])
	}
	headers, _ = exported(t, &sender{root: dir, homeAt: "root", home: home})
	if headers["root/image"] != nil || headers["root/mine"] == nil || headers["rooted"] == nil {
		t.Errorf("with the home it has %v", headers)
	}
}

// TestChanges compares layers as overlayfs leaves them.
func TestChanges(t *testing.T) {
	base, upper := t.TempDir(), t.TempDir()
	fill(t, base, map[string]string{"etc/same": "x", "etc/other": "x", "etc/gone": "x", "usr/lib/": "", "usr/old/file": "x",
		"var/lib/dpkg/status": "Package: a\n", "var/log/x": "x"})
	fill(t, upper, map[string]string{"etc/same": "x", "etc/other": "yy", "opt/tool/bin": "123", "var/log/x": "xx", "var/log/y": "",
		"var/lib/dpkg/status": "Package: b\n", "var/lib/dpkg/info/b.list": "/b\n", "var/lib/dpkg/info/b.md5sums": ""})
	if err := unix.Mknod(filepath.Join(upper, "etc/gone"), unix.S_IFCHR, 0); err != nil {
		t.Skipf("this kernel lets no user make a whiteout: %v", err)
	}
	var out bytes.Buffer
	c := &comparison{base: base, upper: upper, skip: []string{"var/log"}, out: bufio.NewWriter(&out)}
	if err := c.send(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for lines := json.NewDecoder(&out); lines.More(); {
		var change wire.Change
		if err := lines.Decode(&change); err != nil {
			t.Fatal(err)
		}
		text := string(change.Kind) + " " + string(change.Path)
		if change.Kind == wire.Database {
			text += " " + string(change.Base) + string(change.Text)
		}
		got = append(got, text)
	}
	want := []string{"deleted etc/gone", "changed etc/other", "added opt", "added opt/tool", "added opt/tool/bin", "added var/lib/dpkg/info",
		"added var/lib/dpkg/info/b.list", "added var/lib/dpkg/info/b.md5sums", "changed var/lib/dpkg/status",
		"database var/lib/dpkg/status Package: a\nPackage: b\n", "list var/lib/dpkg/info/b.list"}
	if !slices.Equal(got, want) {
		t.Errorf("changes:\n%q\nwant:\n%q", got, want)
	}
}
