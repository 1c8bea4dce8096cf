package inroot

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/durable"
)

// newTree makes a directory of files, of directories (a trailing slash) and of
// links (->).
func newTree(t *testing.T, entries ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, e := range entries {
		name, to, link := strings.Cut(e, " -> ")
		path := filepath.Join(root, name)
		var err error
		switch {
		case link:
			err = os.Symlink(to, path)
		case strings.HasSuffix(name, "/"):
			err = os.Mkdir(path, 0o755)
		default:
			err = os.WriteFile(path, []byte("content of "+name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestWriteStaysInside(t *testing.T) {
	root := newTree(t, "etc/", "real/", "etc/abs -> /real", "etc/up -> ../../../../real", "etc/resolv.conf -> ../run/systemd/resolv.conf")
	for _, path := range []string{"/etc/abs/file", "/etc/up/other", "/etc/resolv.conf", "/new/dir/file"} {
		if err := Write(root, path, []byte("x\n"), 0o640); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"real/file", "real/other", "etc/resolv.conf", "new/dir/file"} {
		info, err := os.Lstat(filepath.Join(root, path))
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
	if left, _ := filepath.Glob(root + "/*/.*banger*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if got := Resolve(root, "/etc/abs/file"); got != "/real/file" {
		t.Errorf("resolved to %s", got)
	}
}

func TestWriteSyncsFirst(t *testing.T) {
	root := newTree(t, "etc/")
	path := filepath.Join(root, "etc/hosts")
	if err := os.WriteFile(path, []byte("the image's"), 0o644); err != nil {
		t.Fatal(err)
	}
	var synced []string
	before := durable.Watch.Load()
	defer durable.Watch.Store(before)
	watch := func(what, next string) {
		if now, err := os.ReadFile(path); err != nil || string(now) != "the image's" {
			t.Errorf("it is replaced already: %q, %v", now, err)
		}
		content, _ := os.ReadFile(next)
		synced = append(synced, what+" "+string(content))
	}
	durable.Watch.Store(&watch)
	if err := Write(root, "/etc/hosts", []byte("otter"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(synced, []string{"synced otter"}) {
		t.Errorf("got %q", synced)
	}
}

func TestWriteLeavesTheSameAlone(t *testing.T) {
	root := newTree(t, "etc/")
	path := filepath.Join(root, "etc/hostname")
	if err := Write(root, "/etc/hostname", []byte("otter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(path)
	if err := Write(root, "/etc/hostname", []byte("otter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("the file was written again")
	}
}
