package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger"
	"banger/internal/hostcmd"
)

// TestNewDisks: a new disk uses almost no space on the host, and its file system is
// clean before and after it has grown a hundredfold.
func TestNewDisks(t *testing.T) {
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		t.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	for _, size := range []banger.Size{Smallest, banger.GiB, 16 * banger.GiB} {
		t.Run(size.String(), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.ext4")
			if err := Create(t.Context(), hostcmd.Host{}, path, size, "banger-test"); err != nil {
				t.Fatal(err)
			}
			var stat syscall.Stat_t
			if err := syscall.Stat(path, &stat); err != nil {
				t.Fatal(err)
			}
			if took := banger.Size(stat.Blocks * 512); took > 2*banger.MiB {
				t.Errorf("it takes %v on the host", took)
			}
			tool(t, "e2fsck", "-fn", path)
			if size > banger.GiB {
				return // resize2fs would take seconds
			}
			if err := Grow(path, size*growth); err != nil {
				t.Fatal(err)
			}
			tool(t, "resize2fs", path)
			tool(t, "e2fsck", "-fn", path)
			if said := tool(t, "dumpe2fs", "-h", path); strings.Contains(said, "meta_bg") {
				t.Errorf("its descriptors are spread:\n%s", said)
			}
		})
	}
}

// TestFull: space that is missing is told from other reasons, whoever says so.
func TestFull(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, true},
		{fmt.Errorf("create: %w", syscall.EDQUOT), true},
		{&hostcmd.Error{Argv: []string{"mke2fs"}, Status: 1, Stderr: "mke2fs: No space left on device while writing", Err: errors.New("exit status 1")}, true},
		{errors.New("qemu: Failed to bind socket: Disk quota exceeded"), true},
		{syscall.EFBIG, false},
		{errors.New("no such file"), false},
		{nil, false},
	} {
		if got := Full(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := (hostcmd.Host{}).Look(name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
