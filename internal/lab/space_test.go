//go:build vm

package lab

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDirs names a directory with the file systems that TestNoSpace needs, where
// it is not root and cannot mount them.
const smallDirs = "BANGER_TEST_SMALL"

// small is an empty file system of a size.
func small(t *testing.T, size string) string {
	t.Helper()
	if prepared := os.Getenv(smallDirs); prepared != "" {
		return filepath.Join(prepared, size)
	}
	dir := t.TempDir()
	if err := syscall.Mount("banger-test", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestNoSpace: a state directory without room takes nothing in, and says so.
func TestNoSpace(t *testing.T) {
	if os.Getuid() != 0 && os.Getenv(smallDirs) == "" {
		t.Skip("only root can mount a small file system: run the suite as root, or name some in " + smallDirs)
	}
	t.Parallel()
	for _, c := range []struct{ size, want string }{
		{"64m", "no space left on device"},     // too small for the image
		{"1000m", "free, a new VM needs 272M"}, // too small for a VM beside it
	} {
		t.Run(c.size, func(t *testing.T) {
			h := newHome(t.TempDir(), shared.bin)
			state := h.dir + "/state"
			if err := os.Symlink(small(t, c.size), state); err != nil {
				t.Fatal(err)
			}
			defer func() {
				pid := h.daemonPID(t.Context())
				h.run(t.Context(), nil, "daemon", "stop")
				if err := gone(pid, time.Minute); pid != 0 && err != nil {
					t.Error(err)
				}
			}()
			r := h.run(t.Context(), nil, "vm", "create", "--name", "squeezed")
			t.Log(r.stderr)
			if r.code != 5 || !strings.Contains(r.stderr, c.want) || !strings.Contains(r.stderr, "ree space on "+state) {
				t.Errorf("exit %d: %s", r.code, r.stderr)
			}
			if list := h.list(t.Context()); len(list) != 0 {
				t.Errorf("left behind: %v", list)
			}
			if left, _ := os.ReadDir(h.dirs.VMs()); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
