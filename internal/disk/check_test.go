package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/internal/hostcmd"
)

// TestErrorsOfAGuestAreSeenAndRepaired: Errors reads what a guest's kernel writes
// to the superblock when its disk fails, and Check clears it.
func TestErrorsOfAGuestAreSeenAndRepaired(t *testing.T) {
	for _, set := range []struct {
		value string
		want  int
	}{{"state 2", 1}, {"error_count 3", 3}, {"state 1", 0}} {
		t.Run(set.value, func(t *testing.T) {
			path := newDisk(t)
			tool(t, "debugfs", "-w", "-R", "set_super_value "+set.value, path)
			if n, err := Errors(path); n != set.want || err != nil {
				t.Errorf("recorded errors: %d, %v, want %d", n, err, set.want)
			}
			if err := Check(t.Context(), hostcmd.Host{}, path); err != nil {
				t.Fatal(err)
			}
			if n, err := Errors(path); n != 0 || err != nil {
				t.Errorf("after the check: %d, %v", n, err)
			}
		})
	}
}

func TestDamagedDisksAreConflicts(t *testing.T) {
	bad := map[string]func(t *testing.T, path string){
		"empty":     func(t *testing.T, path string) { truncate(t, path, 0) },
		"too short": func(t *testing.T, path string) { truncate(t, path, 1030) },
		"cut off":   func(t *testing.T, path string) { truncate(t, path, int64(Smallest)-4096) },
		"not ext4":  func(t *testing.T, path string) { truncate(t, path, 0); truncate(t, path, int64(Smallest)) },
	}
	for name, damage := range bad {
		t.Run(name, func(t *testing.T) {
			path := newDisk(t)
			damage(t, path)
			if n, err := Errors(path); banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), path) {
				t.Errorf("got %d, %v (%s)", n, err, banger.KindOf(err))
			}
		})
	}
	if _, err := Errors(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("a missing disk: %v", err)
	}
}

// TestCheckAsksAPerson: e2fsck does not recreate the root directory without
// asking, which a start cannot do.
func TestCheckAsksAPerson(t *testing.T) {
	path := newDisk(t)
	tool(t, "debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", path) // the root is a file
	err := Check(t.Context(), hostcmd.Host{}, path)
	if banger.KindOf(err) != banger.Conflict || !strings.HasSuffix(banger.FixOf(err), "e2fsck -f "+path) {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
	truncate(t, path, 0)
	if err := Check(t.Context(), hostcmd.Host{}, path); err == nil {
		t.Error("an empty file passes the check")
	}
}

func newDisk(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"mke2fs", "e2fsck", "debugfs"} {
		if _, err := (hostcmd.Host{}).Look(name); err != nil {
			t.Skip(name + " is missing: apt-get install e2fsprogs")
		}
	}
	path := filepath.Join(t.TempDir(), "disk.ext4")
	if err := Create(t.Context(), hostcmd.Host{}, path, Smallest, "banger-test"); err != nil {
		t.Fatal(err)
	}
	return path
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}
