//go:build vm

package lab

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// nobody is a user of every host without a daemon of their own.
const nobody = 65534

// plain returns the home of a user who is not root, with programs and a runtime that they
// can read. On a host where only root may open TAPs, everybody may until the test ends.
func plain(t *testing.T) *home {
	t.Helper()
	if os.Getuid() != 0 {
		return own(t)
	}
	dir := filepath.Join(t.TempDir(), "plain")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o711); err != nil {
		t.Fatal(err)
	}
	h := newHome(dir, filepath.Join(dir, "bin"))
	h.as = &syscall.Credential{Uid: nobody, Gid: nobody, Groups: mayOpen("/dev/kvm")}
	if err := os.Mkdir(h.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"banger", "bangerd", "banger-agent"} {
		copyFile(t, filepath.Join(shared.bin, name), filepath.Join(h.bin, name))
	}
	// Hard links, which stay root's: the user only reads them.
	if out, err := exec.Command("cp", "-al", filepath.Join(shared.bin, "runtime")+"/.", filepath.Join(h.bin, "runtime")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Dir(path) == filepath.Join(h.bin, "runtime") || filepath.Dir(filepath.Dir(path)) == filepath.Join(h.bin, "runtime") {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
	everybodyOpens(t, "/dev/net/tun")
	h.tearDownAfter(t)
	return h
}

// mayOpen returns the group that may open a device, unless that is root's.
func mayOpen(device string) []uint32 {
	info, err := os.Stat(device)
	if err != nil || info.Sys().(*syscall.Stat_t).Gid == 0 {
		return nil
	}
	return []uint32{info.Sys().(*syscall.Stat_t).Gid}
}

// opened counts the tests that let everybody open a device, by its path.
var opened = struct {
	sync.Mutex
	by   map[string]int
	mode map[string]fs.FileMode
}{by: map[string]int{}, mode: map[string]fs.FileMode{}}

// everybodyOpens lets every user open a device until the last test that needs it ends.
func everybodyOpens(t *testing.T, device string) {
	t.Helper()
	opened.Lock()
	defer opened.Unlock()
	if opened.by[device] == 0 {
		info, err := os.Stat(device)
		if err != nil {
			t.Fatal(err)
		}
		opened.mode[device] = info.Mode().Perm()
		if err := os.Chmod(device, info.Mode().Perm()|0o666); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s has mode %v; it has 0666 during this test", device, info.Mode().Perm())
	}
	opened.by[device]++
	t.Cleanup(func() {
		opened.Lock()
		defer opened.Unlock()
		if opened.by[device]--; opened.by[device] > 0 {
			return
		}
		if err := os.Chmod(device, opened.mode[device]); err != nil {
			t.Error(err)
		}
	})
}
