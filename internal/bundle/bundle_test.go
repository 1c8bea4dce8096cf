package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/durable/durabletest"
)

var ctx = context.Background()

func put(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
}

// testBundle writes a complete bundle of small files. The image has a hole.
func testBundle(t *testing.T) (config.BundleDir, config.Dirs) {
	t.Helper()
	dir := config.BundleDir(filepath.Join(t.TempDir(), "runtime"))
	state := t.TempDir()
	kernel := dir.Kernel()
	put(t, kernel.Vmlinux(), []byte("vmlinux"), 0o444)
	put(t, kernel.BootModules(), []byte("boot"), 0o444)
	put(t, kernel.Modules(), []byte("modules"), 0o444)
	put(t, kernel.Info(), []byte("{}"), 0o444)
	put(t, dir.Agent(), []byte("agent"), 0o755)
	put(t, dir.Rootfs(), nil, 0o644)
	image, err := os.OpenFile(dir.Rootfs(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	for _, at := range []int64{0, 3 << 20} {
		if _, err := image.WriteAt(bytes.Repeat([]byte("data"), 2000), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(image.Truncate(8<<20), image.Chmod(0o444)); err != nil {
		t.Fatal(err)
	}
	m := Manifest{Version: Version, CreatedAt: time.Unix(1_790_000_000, 0).UTC()}
	m.Kernel = Kernel{Release: "6.1.0", Origin: "test"}
	m.Image = Image{Name: "docker", File: filepath.Base(dir.Rootfs()), Origin: "test"}
	var errK, errI error
	m.Kernel.Digest, m.Kernel.Size, errK = KernelDigest(ctx, kernel)
	m.Image.Digest, m.Image.Size, errI = FileDigest(ctx, dir.Rootfs())
	if err := errors.Join(errK, errI, m.Write(dir)); err != nil {
		t.Fatal(err)
	}
	return dir, config.Dirs{State: state}
}

func open(t *testing.T, dir config.BundleDir) *Bundle {
	t.Helper()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFileDigestCountsHolesAsZeros(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	data := make([]byte, 5<<20+123)
	copy(data[2<<20:], "in the middle")
	put(t, path, nil, 0o600)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, step := range []func() error{
		func() error { return file.Truncate(int64(len(data))) },
		func() error { _, err := file.WriteAt([]byte("in the middle"), 2<<20); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	want := banger.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
	if got, size, err := FileDigest(ctx, path); got != want || size != banger.Size(len(data)) || err != nil {
		t.Errorf("got %s, %d, %v; want %s", got, size, err, want)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := FileDigest(canceled, path); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	dir := config.BundleDir(t.TempDir())
	for _, text := range []string{
		"", "{", `{"version":2}`, `{"version":1,"kernel":{"digest":"sha256:../../x"}}`,
		`{"version":1,"image":{"digest":"sha256:` + strings.Repeat("0", 64) + `","file":"../etc/passwd"}}`,
	} {
		if text != "" {
			put(t, dir.Manifest(), []byte(text), 0o600)
		}
		_, err := Open(dir)
		if banger.KindOf(err) != banger.Unready || banger.FixOf(err) != "make runtime" {
			t.Errorf("%q: %v, fix %q", text, err, banger.FixOf(err))
		}
	}
}

func TestInstall(t *testing.T) {
	dir, dirs := testBundle(t)
	b := open(t, dir)
	disk := durabletest.New(t, dirs.State)
	done, err := Install(ctx, b, dirs)
	if err != nil {
		t.Fatal(err)
	}
	if done.Image.Name != "docker" || done.Image.ID != b.Image.Digest || done.Image.Size != 8<<20 || done.Kernel.Name != "6.1.0" || done.Kernel.ID != b.Kernel.Digest {
		t.Errorf("installed %+v", done)
	}
	for _, path := range []string{string(dirs.Image(done.Image.ID)), string(dirs.Kernel(done.Kernel.ID))} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s came before anybody asked: %v", path, err)
		}
	}
	bring := func() error { return errors.Join(b.InstallKernel(ctx, dirs), b.InstallImage(ctx, dirs)) }
	if err := bring(); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{
		dirs.Image(done.Image.ID).Rootfs(): 0o444, dirs.Kernel(done.Kernel.ID).Vmlinux(): 0o444,
		dirs.Kernel(done.Kernel.ID).Info(): 0o444, dirs.Agent(done.Agent): 0o555,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	disk.Check(dirs.State)
	if err := errors.Join(os.RemoveAll(string(dir.Kernel())), os.Remove(b.Rootfs())); err != nil { // the installed parts do not need them
		t.Fatal(err)
	}
	if again, err := Install(ctx, b, dirs); again != done || errors.Join(err, bring()) != nil {
		t.Errorf("again: %+v, %v, %v", again, err, bring())
	}
}

func TestCopiesAreOnTheDisk(t *testing.T) {
	root := t.TempDir()
	disk := durabletest.New(t, root)
	for name, mode := range map[string]os.FileMode{"linked": 0o444, "copied": 0o644} { // a writable file is never linked
		from, to := filepath.Join(t.TempDir(), name), filepath.Join(root, name)
		put(t, from, []byte("content"), mode)
		if err := errors.Join(share(ctx, from, to), durable.Sync(root)); err != nil {
			t.Fatal(err)
		}
	}
	disk.Check(root)
}

func TestManifestIsOnTheDisk(t *testing.T) {
	dir := config.BundleDir(t.TempDir())
	disk := durabletest.New(t, filepath.Dir(string(dir)))
	if err := (Manifest{Version: Version}).Write(dir); err != nil {
		t.Fatal(err)
	}
	disk.Check(string(dir))
}

func TestInstallRemovesWhatAKilledOneLeft(t *testing.T) {
	dir, dirs := testBundle(t)
	put(t, filepath.Join(dirs.Images(), begun+"x", "rootfs.ext4"), []byte("half"), 0o444)
	put(t, filepath.Join(dirs.Agents(), begun+"agent"), []byte("half"), 0o444)
	if _, err := Install(ctx, open(t, dir), dirs); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]int{dirs.Images(): 0, dirs.Kernels(): 0, dirs.Agents(): 1} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("%s has %v, %v", dir, entries, err)
		}
	}
}

func TestInstallRefusesOtherContent(t *testing.T) {
	dir, dirs := testBundle(t)
	b := open(t, dir)
	if err := os.Chmod(dir.Rootfs(), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(dir.Rootfs(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("!"), 7<<20); err != nil {
		t.Fatal(err)
	}
	is, _, err := FileDigest(ctx, dir.Rootfs())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Install(ctx, b, dirs); err != nil {
		t.Fatal(err)
	}
	err = b.InstallImage(ctx, dirs)
	if banger.KindOf(err) != banger.Unready || banger.FixOf(err) != "make runtime" ||
		!strings.Contains(err.Error(), string(is)) || !strings.Contains(err.Error(), string(b.Image.Digest)) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dirs.Images()); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	if err := b.InstallKernel(ctx, dirs); err != nil {
		t.Error(err)
	}
}

func TestInstallWithoutAgentSaysHowToGetOne(t *testing.T) {
	dir, dirs := testBundle(t)
	if err := os.Remove(dir.Agent()); err != nil {
		t.Fatal(err)
	}
	done, err := Install(ctx, open(t, dir), dirs)
	if banger.FixOf(err) != "make build" || done.Image.ID == "" {
		t.Errorf("got %+v, %v", done, err)
	}
}

func TestFirecrackerIsOptional(t *testing.T) {
	dir, dirs := testBundle(t)
	b := open(t, dir)
	if done, err := Install(ctx, b, dirs); err != nil || done.Firecracker != "" {
		t.Fatalf("without: %+v, %v", done, err)
	}
	put(t, dir.Firecracker(), []byte("vmm"), 0o755)
	b.Firecracker = Firecracker{Version: "1.17.0", Digest: banger.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("vmm"))))}
	done, err := Install(ctx, b, dirs)
	if err != nil || done.Firecracker != b.Firecracker.Digest {
		t.Fatalf("with: %+v, %v", done, err)
	}
	if info, err := os.Stat(dirs.Firecracker(done.Firecracker)); err != nil || info.Mode() != 0o555 {
		t.Errorf("installed %v, %v", info, err)
	}
	if err := b.Verify(ctx); err != nil {
		t.Error(err)
	}
	put(t, dir.Firecracker(), []byte("other"), 0o755)
	if done, err := Install(ctx, b, dirs); err != nil || done.Firecracker == "" { // installed already
		t.Errorf("again: %+v, %v", done, err)
	}
	if err := b.Verify(ctx); banger.FixOf(err) != "make runtime-bundle" {
		t.Errorf("other content: %v", err)
	}
	if err := os.RemoveAll(dirs.VMMs()); err != nil {
		t.Fatal(err)
	}
	done, err = Install(ctx, b, dirs)
	if banger.KindOf(err) != banger.Unready || banger.FixOf(err) != "make runtime-bundle" || done.Firecracker != "" || done.Image.ID == "" {
		t.Errorf("other content: %+v, %v", done, err)
	}
}

func TestShare(t *testing.T) {
	for _, test := range []struct {
		name   string
		mode   os.FileMode
		linked bool // if blocks cannot be shared
	}{{"read-only", 0o444, true}, {"writable", 0o644, false}} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			src, dst, alias := filepath.Join(dir, "src"), filepath.Join(dir, "dst"), filepath.Join(dir, "alias")
			put(t, src, nil, 0o600)
			if err := errors.Join(os.Truncate(src, 16<<20), os.Chmod(src, test.mode), os.Symlink(src, alias)); err != nil {
				t.Fatal(err)
			}
			if err := share(ctx, alias, dst); err != nil {
				t.Fatal(err)
			}
			a, errA := os.Lstat(src)
			b, errB := os.Lstat(dst)
			if errA != nil || errB != nil || b.Mode() != 0o444 || b.Size() != 16<<20 {
				t.Fatalf("%v, %v, %v", b, errA, errB)
			}
			if blocks := b.Sys().(*syscall.Stat_t).Blocks; blocks > 128 {
				t.Errorf("the hole takes %d blocks", blocks)
			}
			if same := os.SameFile(a, b); same != test.linked && !reflinks(t, dir) {
				t.Errorf("the same file: %v, want %v", same, test.linked)
			}
		})
	}
}

func reflinks(t *testing.T, dir string) bool {
	t.Helper()
	a, errA := os.CreateTemp(dir, "a")
	b, errB := os.CreateTemp(dir, "b")
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	return unix.IoctlFileClone(int(a.Fd()), int(b.Fd())) == nil
}
