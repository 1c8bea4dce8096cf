package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"banger/internal/durable"
	"banger/internal/durable/durabletest"
)

// put writes without bringing anything onto the disk.
func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestModelKnowsWhatIsLost(t *testing.T) {
	root := t.TempDir()
	put(t, root+"/old", "x")
	put(t, root+"/gone", "x")
	put(t, root+"/replaced", "x")
	disk := durabletest.New(t, root)
	if lost := disk.Lost(root); len(lost) > 0 {
		t.Errorf("what was there is lost: %q", lost)
	}
	put(t, root+"/old", "longer")
	put(t, root+"/new/file", "x")
	put(t, root+"/other", "x")
	err := errors.Join(os.Remove(root+"/gone"), os.Rename(root+"/other", root+"/replaced"))
	want := []string{"the content of " + root + "/new/file", "the content of " + root + "/old", "the content of " + root + "/replaced",
		"the name " + root + "/new", "the name " + root + "/new/file", "the removal of " + root + "/gone", "the replacement of " + root + "/replaced"}
	if got := disk.Lost(root); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, got %q\nwant %q", err, got, want)
	}
	if got := disk.Names(root); !slices.Equal(got, []string{"gone", "old", "replaced"}) {
		t.Errorf("left are %q", got)
	}
	// A name that its own directory has is lost with that directory's.
	if err := errors.Join(durable.Sync(root+"/new/file"), durable.Sync(root+"/new")); err != nil {
		t.Fatal(err)
	}
	if got := disk.Lost(root + "/new/file"); !slices.Equal(got, []string{"the name " + root + "/new"}) {
		t.Errorf("got %q", got)
	}
	for _, path := range []string{root, root + "/old", root + "/replaced"} {
		if err := durable.Sync(path); err != nil {
			t.Fatal(err)
		}
	}
	disk.Check(root)
}

func TestEverythingIsOnTheDiskAfterIt(t *testing.T) {
	for name, do := range map[string]func(root string) error{
		"WriteFile": func(root string) error { return durable.WriteFile(root+"/dir/old", []byte("new"), 0o640) },
		"MkdirAll":  func(root string) error { return durable.MkdirAll(root+"/a/b/c", 0o700) },
		"Rename": func(root string) error {
			return errors.Join(durable.Sync(root+"/file"), durable.Rename(root+"/file", root+"/dir/other"))
		},
		"Exchange": func(root string) error {
			return errors.Join(durable.Sync(root+"/file"), durable.Exchange(root+"/file", root+"/dir/old"))
		},
		"SyncAll": func(root string) error { return durable.SyncAll(root + "/file") },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			put(t, root+"/dir/old", "old")
			put(t, root+"/file", "")
			disk := durabletest.New(t, root)
			put(t, root+"/file", "new")
			if err := do(root); err != nil {
				t.Fatal(err)
			}
			disk.Check(root, map[bool]string{true: "file"}[name == "WriteFile" || name == "MkdirAll"])
		})
	}
}

func TestWriteIsWholeOrNothing(t *testing.T) {
	root := t.TempDir()
	path := put(t, root+"/file", "old")
	torn := errors.New("torn")
	err := durable.Write(path, 0o644, func(file *os.File) error {
		if info, err := file.Stat(); err != nil || info.Mode() != 0o600 {
			t.Errorf("while it grows: %v, %v", info, err)
		}
		_, err := file.WriteString("ne")
		return errors.Join(err, torn)
	})
	if text, _ := os.ReadFile(path); !errors.Is(err, torn) || string(text) != "old" {
		t.Errorf("%v, and the file has %q", err, text)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 1 {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o640); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if text, _ := os.ReadFile(path); err != nil || string(text) != "new" || info.Mode() != 0o640 {
		t.Errorf("it has %q, %v, %v", text, info.Mode(), err)
	}
}
