package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/internal/durable"
)

// A key whose private half is in an agent or a token is used as it is.
func TestUserKeyInAnAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	const line = "ssh-ed25519 AAAA you@token"
	if err := os.WriteFile(path+".pub", []byte(line+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if public, err := UserKey(path); err != nil || public != line {
		t.Errorf("%q, %v", public, err)
	}
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if said, err := os.ReadFile(path + ".pub"); err != nil || string(said) != line+"\n" || len(files) != 1 {
		t.Errorf("%q, %v, %v", said, err, files)
	}
}

// A link into a disk that is not mounted stays as it is.
func TestUserKeyElsewhere(t *testing.T) {
	for _, half := range []string{"", ".pub"} {
		path := filepath.Join(t.TempDir(), "id")
		if err := os.Symlink("/nonexistent/id", path+half); err != nil {
			t.Fatal(err)
		}
		if _, err := UserKey(path); banger.KindOf(err) != banger.Invalid || banger.FixOf(err) != "mount what it leads to, or rm "+path+half {
			t.Errorf("got %v", err)
		}
		if to, err := os.Readlink(path + half); err != nil || to != "/nonexistent/id" {
			t.Errorf("it leads to %q, %v", to, err)
		}
	}
}

// The private half is written first: a power cut in between leaves a working key.
func TestUserKeyBeginsWithThePrivateHalf(t *testing.T) {
	var public []bool // of what gets its name
	watch := func(what, path string) {
		if what == "naming" {
			public = append(public, strings.Contains(filepath.Base(path), ".pub"))
		}
	}
	durable.Watch.Store(&watch)
	defer durable.Watch.Store(nil)
	path := filepath.Join(t.TempDir(), "id")
	made, err := UserKey(path)
	if err != nil || !slices.Equal(public, []bool{false, true}) {
		t.Errorf("the public half is named at %v, %v", public, err)
	}
	if err := os.Remove(path + ".pub"); err != nil {
		t.Fatal(err)
	}
	if again, err := UserKey(path); err != nil || again+" banger" != made {
		t.Errorf("%q, %v, want %q", again, err, made)
	}
}
