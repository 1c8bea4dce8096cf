//go:build vm

package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
)

// smallDirs names a directory with the file systems that these tests need if they cannot
// mount them, without root.
const smallDirs = "BANGER_TEST_SMALL"

// small returns the directory of an empty file system of a size.
func small(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv(smallDirs) == "" {
		t.Skip("only root can mount a small file system: run the suite as root, or name some in " + smallDirs)
	}
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

// squeezed returns a home whose state directory is a small file system.
func squeezed(t *testing.T, size string) *home {
	t.Helper()
	h := newHome(t.TempDir(), shared.bin)
	if err := os.Symlink(small(t, size), h.dir+"/state"); err != nil {
		t.Fatal(err)
	}
	h.tearDownAfter(t)
	return h
}

// TestNoSpace: creating a VM without enough space is an error that names the directory,
// and leaves nothing behind.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ size, want string }{
		{"64m", "no space left on device"},     // too small for the image
		{"1300m", "free, a new VM needs 272M"}, // too small for a VM beside it
	} {
		t.Run(c.size, func(t *testing.T) {
			h := squeezed(t, c.size)
			state := h.dir + "/state"
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

// TestFullHost: on a full disk stopping and deleting still work, and a start names the
// file system to free.
func TestFullHost(t *testing.T) {
	t.Parallel()
	h := squeezed(t, "600m")
	image := h.tiny(t)
	h.banger(t, "vm", "create", "--name", "glutton", "--image", image)
	h.banger(t, "vm", "create", "--name", "lean", "--image", image, "--no-start")
	filler := h.dir + "/state/filler"
	fill(t, filler)
	if r := h.run(t.Context(), nil, "vm", "start", "lean"); r.code != 5 || !strings.Contains(r.stderr, "\nfix: free space on "+h.dir) {
		t.Errorf("a start on a full disk: exit %d: %s", r.code, r.stderr)
	}
	if h.show(t, "glutton").Driver == "qemu" {
		h.standsStill(t, "glutton", filler)
	}
	h.banger(t, "vm", "stop", "--force", "glutton") // its guest cannot write what it has
	h.banger(t, "vm", "delete", "--yes", "glutton", "lean")
	if left, _ := os.ReadDir(h.dirs.VMs()); len(left) != 0 || len(h.list(t.Context())) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	h.banger(t, "vm", "create", "--name", "frugal", "--image", image, "--no-start")
}

// standsStill checks that a VM whose disks cannot grow is paused until they can, and
// loses nothing. The disk is full again when it returns.
func (h *home) standsStill(t *testing.T, name, filler string) {
	t.Helper()
	wrote := make(chan result, 1)
	go func() {
		wrote <- h.run(t.Context(), nil, "vm", "exec", name, "--", "sh", "-c", "dd if=/dev/urandom of=/root/big bs=1M count=64 && sync && md5sum /root/big")
	}()
	until(t, time.Minute, "the pause", func() bool { return len(h.show(t, name).Problems) > 0 })
	h.isPaused(t, name)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r := <-wrote
	until(t, time.Minute, "the end of the pause", func() bool { return len(h.show(t, name).Problems) == 0 })
	if sum := h.sh(t, name, "echo 3 >/proc/sys/vm/drop_caches; md5sum /root/big"); r.code != 0 || sum+"\n" != r.stdout {
		t.Errorf("exit %d: %s%s, then %s", r.code, r.stdout, r.stderr, sum)
	}
	fill(t, filler)
}

// isPaused checks that a VM that waits for space is shown as paused, and that exec and
// stop say so at once.
func (h *home) isPaused(t *testing.T, name string) {
	t.Helper()
	disks := map[string]bool{} // which one is written first is up to the guest
	for _, vm := range h.list(t.Context()) {
		for _, p := range vm.Problems {
			disks[p.Disk] = true
			if p.Kind != banger.ProblemPaused || !strings.Contains(p.Text, "no space on "+h.dir) || p.Fix == "" {
				t.Errorf("it is listed with the problem %+v", p)
			}
		}
	}
	if len(disks) == 0 {
		t.Error("it is listed without a problem")
	}
	for _, args := range [][]string{{"vm", "exec", name, "--", "true"}, {"vm", "stop", name}} {
		begun := time.Now()
		r := h.run(t.Context(), nil, args...)
		if took := time.Since(begun); took > 5*time.Second*patience(t) || !strings.Contains(r.stderr, "no space on "+h.dir) || !strings.Contains(r.stderr, "\nfix: free space on "+h.dir) {
			t.Errorf("%q: exit %d after %v: %s", args, r.code, took, r.stderr)
		}
	}
	if n := strings.Count(read(t, h.dirs.Log()), `"a disk fails"`); n < 1 || n > 2 {
		t.Errorf("the log has %d warnings, not one for each disk", n)
	}
}

// fill writes a file that takes all free space.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}
