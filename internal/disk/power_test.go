package disk

import (
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/durable"
	"banger/internal/durable/durabletest"
	"banger/internal/hostcmd"
)

func TestDisksOutliveAPowerCut(t *testing.T) {
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		t.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	dir := t.TempDir()
	disk := durabletest.New(t, dir)
	path := filepath.Join(dir, "work.ext4")
	if err := Create(t.Context(), hostcmd.Host{}, path, Smallest, "work"); err != nil {
		t.Fatal(err)
	}
	if err := durable.Sync(dir); err != nil { // the caller's duty
		t.Fatal(err)
	}
	disk.Check(dir)
	for _, size := range []banger.Size{2 * Smallest, Smallest} {
		if err := Grow(path, size); err != nil {
			t.Fatal(err)
		}
		disk.Check(dir)
		if info, err := os.Stat(path); err != nil || banger.Size(info.Size()) != 2*Smallest {
			t.Errorf("asked for %v it has %d, %v", size, info.Size(), err)
		}
	}
}
