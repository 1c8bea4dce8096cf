package mount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/durable/durabletest"
)

func TestEscapePath(t *testing.T) {
	// As systemd-escape --path says.
	for path, want := range map[string]string{
		"/var/lib/docker":                 "var-lib-docker",
		"/var/lib-docker/":                `var-lib\x2ddocker`,
		"/lib/modules/6.12.1+deb13-cloud": `lib-modules-6.12.1\x2bdeb13\x2dcloud`,
		"/.hidden":                        `\x2ehidden`,
		"/a:b_c":                          "a:b_c",
		"/":                               "-",
	} {
		if got := EscapePath(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

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

func TestSeed(t *testing.T) {
	source := newTree(t, "dir/", "dir/file", "link -> dir/file", "plain")
	if err := os.Link(source+"/plain", source+"/dir/second"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(source+"/dir", 0o2750); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	target := filepath.Join(parent, "root")
	durableDisk := durabletest.New(t, parent)
	// What an interrupted seeding left is not taken for a whole one.
	if err := os.MkdirAll(target+".seeding/rubbish", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := seed(source+"/.", target); err != nil {
		t.Fatal(err)
	}
	durableDisk.Check(parent)
	entries, err := os.ReadDir(target)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"dir", "link", "plain"}) {
		t.Errorf("got %v", names)
	}
	want, _ := os.Stat(source + "/dir")
	got, _ := os.Stat(target + "/dir")
	if got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) {
		t.Errorf("dir: %v %v, want %v %v", got.Mode(), got.ModTime(), want.Mode(), want.ModTime())
	}
	one, _ := os.Stat(target + "/plain")
	two, _ := os.Stat(target + "/dir/second")
	if !os.SameFile(one, two) {
		t.Error("two names of one file became two files")
	}
	if content, _ := os.ReadFile(target + "/link"); string(content) != "content of dir/file" {
		t.Errorf("through the link: %q", content)
	}
	if err := os.Remove(target + "/plain"); err != nil {
		t.Fatal(err)
	}
	if err := seed(source+"/.", target); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(target + "/plain"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a second boot brought a deleted file back")
	}
}

func FuzzEscapePath(f *testing.F) {
	for _, path := range []string{"/var/lib/docker", "/", "", "a\nb", ".", "/\x00", "\xff/.."} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if name := EscapePath(path); name == "" || strings.ContainsAny(name, "/\x00\n") {
			t.Errorf("%q becomes the file name %q", path, name)
		}
	})
}
