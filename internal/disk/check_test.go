package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
			want := banger.FsckRepaired
			if set.want == 0 {
				want = banger.FsckClean
			}
			if got, err := Check(t.Context(), hostcmd.Host{}, path); err != nil || got != want {
				t.Fatalf("%s, %v, want %s", got, err, want)
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

// TestRepair: e2fsck does not recreate the root directory without asking, which a start
// cannot do. Repair does, and it finds another superblock, and gives a file its size back.
func TestRepair(t *testing.T) {
	damage := map[string]func(t *testing.T, path string){
		"a root that is a file": func(t *testing.T, path string) {
			tool(t, "debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", path)
		},
		"no superblock": func(t *testing.T, path string) { overwrite(t, path, 4096) },
		"cut off":       func(t *testing.T, path string) { truncate(t, path, int64(Smallest)) },
	}
	for name, spoil := range damage {
		t.Run(name, func(t *testing.T) {
			path := sizedDisk(t, 4*Smallest) // with more than one superblock
			spoil(t, path)
			if err := Copy(t.Context(), hostcmd.Host{}, path, path+".before"); err != nil {
				t.Fatal(err)
			}
			if got, err := Check(t.Context(), hostcmd.Host{}, path); banger.KindOf(err) != banger.Conflict || got != banger.FsckDamaged || !strings.Contains(err.Error(), path) {
				t.Errorf("the check: %s, %v", got, err)
			}
			if err := os.Rename(path+".before", path); err != nil { // without what e2fsck has done so far
				t.Fatal(err)
			}
			if err := Repair(t.Context(), hostcmd.Host{}, path); err != nil {
				t.Fatal(err)
			}
			if got, err := Check(t.Context(), hostcmd.Host{}, path); got != banger.FsckClean || err != nil {
				t.Errorf("after the repair: %s, %v", got, err)
			}
		})
	}
	path := newDisk(t)
	truncate(t, path, 0)
	if err := Repair(t.Context(), hostcmd.Host{}, path); banger.KindOf(err) != banger.Conflict || banger.FixOf(err) == "" {
		t.Errorf("of an empty file: %v, fix %q", err, banger.FixOf(err))
	}
}

func TestCopy(t *testing.T) {
	path := newDisk(t)
	if err := Copy(t.Context(), hostcmd.Host{}, path, path+".copy"); err != nil {
		t.Fatal(err)
	}
	one, err1 := os.ReadFile(path)
	other, err2 := os.ReadFile(path + ".copy")
	if err1 != nil || err2 != nil || !bytes.Equal(one, other) {
		t.Errorf("it differs: %v, %v", err1, err2)
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(path+".copy", &stat); err != nil || banger.Size(stat.Blocks*512) > 2*banger.MiB {
		t.Errorf("it takes %v, %v: its holes are filled", banger.Size(stat.Blocks*512), err)
	}
	if err := Copy(t.Context(), hostcmd.Host{}, path+".none", path+".copy2"); err == nil {
		t.Error("what does not exist is copied")
	}
	if _, err := os.Stat(path + ".copy2"); !os.IsNotExist(err) {
		t.Errorf("a failure leaves a file: %v", err)
	}
}

func newDisk(t *testing.T) string {
	t.Helper()
	return sizedDisk(t, Smallest)
}

func sizedDisk(t *testing.T, size banger.Size) string {
	t.Helper()
	for _, name := range []string{"mke2fs", "e2fsck", "debugfs"} {
		if _, err := (hostcmd.Host{}).Look(name); err != nil {
			t.Skip(name + " is missing: apt-get install e2fsprogs")
		}
	}
	path := filepath.Join(t.TempDir(), "disk.ext4")
	if err := Create(t.Context(), hostcmd.Host{}, path, size, "banger-test"); err != nil {
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

// overwrite replaces the first bytes of a file by zeros.
func overwrite(t *testing.T, path string, n int) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(make([]byte, n), 0); err != nil {
		t.Fatal(err)
	}
}
