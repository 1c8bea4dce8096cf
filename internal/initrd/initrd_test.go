package initrd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func bootModules(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out)
	w.Dir("lib", 0o755)
	w.File("lib/modules.order", 0o644, 3, strings.NewReader("a\nb"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestMakeIsBaseAndConfiguration(t *testing.T) {
	dir := t.TempDir()
	agent, modules := write(t, dir, "agent", []byte("#!agent")), write(t, dir, "boot.cpio", bootModules(t))
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := WriteBase(out, agent, modules); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same parts gave different bytes")
	}
	base, path := write(t, dir, "base", first.Bytes()), filepath.Join(dir, "initrd.img")
	for _, config := range []string{`{"name":"old"}`, `{"name":"otter"}`} {
		if err := Make(path, base, []byte(config)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Size()%Page != 0 {
		t.Errorf("mode and size %v, %v", info, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readArchives(data)
	if err != nil {
		t.Fatal(err)
	}
	want := []member{
		{name: "dev", mode: 0o040755, links: 2},
		{name: "proc", mode: 0o040755, links: 2},
		{name: "sys", mode: 0o040755, links: 2},
		{name: "run", mode: 0o040755, links: 2},
		{name: "dev/console", mode: 0o020600, links: 1, major: 5, minor: 1},
		{name: "init", mode: 0o100755, links: 1, data: "#!agent"},
		{name: "lib", mode: 0o040755, links: 2},
		{name: "lib/modules.order", mode: 0o100644, links: 1, data: "a\nb"},
		{name: "config.json", mode: 0o100600, links: 1, data: `{"name":"otter"}`},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	assertNames(t, dir, "agent", "base", "boot.cpio", "initrd.img")
}

func TestRest(t *testing.T) {
	for size, want := range map[int64]int64{0: 0, 1: Page - 1, Page - 1: 1, Page: 0, 3*Page + 512: Page - 512} {
		if got := Rest(size); got != want {
			t.Errorf("%d and %d, want %d", size, got, want)
		}
	}
}

func TestMakeLeavesNothingWhenItFails(t *testing.T) {
	dir := t.TempDir()
	base := write(t, dir, "base", bootModules(t))
	if err := Make(filepath.Join(dir, "initrd.img"), base, make([]byte, maxConfig+1)); err == nil {
		t.Error("an endless configuration was taken")
	}
	if err := Make(filepath.Join(dir, "initrd.img"), base+"-missing", nil); err == nil {
		t.Error("no base is no error")
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Make(filepath.Join(dir, "taken"), base, nil); err == nil {
		t.Error("a directory was replaced")
	}
	assertNames(t, dir, "base", "taken")
}

func TestWriteBaseWantsAnArchive(t *testing.T) {
	dir := t.TempDir()
	agent := write(t, dir, "agent", []byte("x"))
	for name, data := range map[string]string{"text": "not an archive", "cut": "070701ABC", "empty": ""} {
		if err := WriteBase(&bytes.Buffer{}, agent, write(t, dir, name, []byte(data))); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func assertNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the directory has %v, want %v", got, want)
	}
}
