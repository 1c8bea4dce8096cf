package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// Where the disks are mounted while the root comes together.
const (
	baseDir    = "/base"
	overlayDir = "/rw"
	modulesDir = "/mods"
	workDir    = "/work"
)

// mount is one file system of the kernel's own.
type mount struct {
	fs, target, options string
	flags               uintptr
}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func (m mount) make() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.fs, m.target, m.fs, m.flags, m.options)
	if err != nil && err != unix.EBUSY {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

func makeAll(mounts []mount) error {
	for _, m := range mounts {
		if err := m.make(); err != nil {
			return err
		}
	}
	return nil
}

func (b *boot) mountKernel() error {
	err := makeAll([]mount{
		{"proc", "/proc", "", plain},
		{"sysfs", "/sys", "", plain},
		{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
	})
	if err != nil {
		return err
	}
	openLog()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	b.release = unix.ByteSliceToString(name.Release[:])
	return nil
}

func (b *boot) mountBase() error {
	return mountReadOnly(b.disks[wire.LabelBase], baseDir)
}

func mountReadOnly(device, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, target, "ext4", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	return nil
}

func (b *boot) mountOverlayDisk() error {
	if err := mountGrown(b.disks[wire.LabelOverlay], overlayDir); err != nil {
		return err
	}
	if err := os.MkdirAll(overlayDir+"/work", 0o700); err != nil {
		return err
	}
	return mirrorDir(baseDir, overlayDir+"/upper")
}

// mirrorDir makes a directory with the owner and mode of another: it stands
// for it in the root.
func mirrorDir(model, path string) error {
	var st unix.Stat_t
	if err := unix.Stat(model, &st); err != nil {
		return &os.PathError{Op: "stat", Path: model, Err: err}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	return errors.Join(unix.Chown(path, int(st.Uid), int(st.Gid)), unix.Chmod(path, st.Mode&0o7777))
}

// overlayOptions never change: an upper layer used with others is not safe.
const overlayOptions = "lowerdir=" + baseDir + ",upperdir=" + overlayDir + "/upper,workdir=" + overlayDir +
	"/work,redirect_dir=on,index=on,xino=auto,metacopy=off"

func (b *boot) mountRoot() error {
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("overlay", newRoot, "overlay", 0, overlayOptions); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

func (b *boot) mountModules() error {
	if err := mountReadOnly(b.disks[wire.LabelModules], modulesDir); err != nil {
		return err
	}
	return bindIn(newRoot, b.modulesPath(), modulesDir)
}

func (b *boot) modulesPath() string { return "/lib/modules/" + b.release }

// bindIn binds a directory onto path inside root.
func bindIn(root, path, source string) error {
	dir, err := dirIn(root, path, 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Mount(source, through(dir), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	return nil
}

func (b *boot) mountDirect() error {
	for _, path := range b.config.Direct {
		if err := mountDirectDir(newRoot, overlayDir, path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// mountDirectDir puts a directory of the raw overlay disk onto path: overlayfs
// cannot carry another overlayfs, which container engines need.
func mountDirectDir(root, disk, path string) error {
	dir, err := dirIn(root, path, 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := os.MkdirAll(disk+"/direct", 0o700); err != nil {
		return err
	}
	source := filepath.Join(disk, "direct", escapePath(path))
	if err := seed(through(dir)+"/.", source); err != nil {
		return err
	}
	return bindIn(root, path, source)
}

// escapePath makes one file name of a path, another for each path: the one that
// systemd gives the path's mount unit.
func escapePath(path string) string {
	path = strings.Trim(filepath.Clean(path), "/")
	if path == "" {
		return "-"
	}
	var name strings.Builder
	for i := range len(path) {
		c := path[i]
		switch {
		case c == '/':
			name.WriteByte('-')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == ':', c == '_', c == '.' && i > 0:
			name.WriteByte(c)
		default:
			fmt.Fprintf(&name, `\x%02x`, c)
		}
	}
	return name.String()
}

// workRoot is the directory of the work disk that VMs see, so that lost+found
// stays outside.
const workRoot = "root"

func (b *boot) mountWork() error {
	if b.config.WorkMount == "" {
		return nil
	}
	if err := mountGrown(b.disks[wire.LabelWork], workDir); err != nil {
		return err
	}
	return mountWorkDir(newRoot, workDir, b.config.WorkMount)
}

func mountWorkDir(root, disk, path string) error {
	dir, err := dirIn(root, path, 0o700)
	if err != nil {
		return err
	}
	defer dir.Close()
	source := filepath.Join(disk, workRoot)
	if err := seed(through(dir)+"/.", source); err != nil {
		return err
	}
	return bindIn(root, path, source)
}

func (b *boot) mountRun() error {
	dir, err := dirIn(newRoot, "/run", 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Mount("tmpfs", through(dir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=20%,nr_inodes=800k"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return nil
}

func (b *boot) mountRest() error {
	err := makeAll([]mount{
		{"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"cgroup2", cgroupRoot, "nsdelegate,memory_recursiveprot", plain},
	})
	if err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if b.kind != initSystemd {
		makeStaticNodes(newRoot, b.release)
	}
	return makeCgroups()
}

// becomeRoot makes the new root the root of process 1, and so of the kernel's
// own helpers; a chroot of the children alone would leave those behind.
func (b *boot) becomeRoot() error {
	for _, dir := range []string{baseDir, overlayDir, modulesDir, workDir} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("detach %s: %w", dir, err)
		}
	}
	for _, dir := range []string{"/sys", "/dev", "/proc"} {
		target, err := dirIn(newRoot, dir, 0o755)
		if err != nil {
			return err
		}
		err = unix.Mount(dir, through(target), "", unix.MS_MOVE, "")
		target.Close()
		if err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	deleteInitramfs()
	return enterRoot(newRoot)
}

// deleteInitramfs frees the memory of what the kernel unpacked.
func deleteInitramfs() {
	for _, path := range []string{"/init", "/lib", "/" + wire.ConfigPath} {
		os.RemoveAll(path)
	}
}

func enterRoot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return unix.Chdir("/")
}

// remountAfterSoftReboot brings back what systemd unmounted when it started
// anew without the machine.
func remountAfterSoftReboot(c wire.Config) error {
	found, _, _ := scanDisks()
	var errs []error
	for _, path := range c.Direct {
		if !isMountPoint(path) {
			errs = append(errs, withDisk(found[wire.LabelOverlay], func(disk string) error {
				return mountDirectDir("/", disk, path)
			}))
		}
	}
	if c.WorkMount != "" && !isMountPoint(c.WorkMount) {
		errs = append(errs, withDisk(found[wire.LabelWork], func(disk string) error {
			return mountWorkDir("/", disk, c.WorkMount)
		}))
	}
	return errors.Join(errs...)
}

// withDisk mounts a disk for the time of do.
func withDisk(device string, do func(dir string) error) error {
	if err := mountGrown(device, scratchDir); err != nil {
		return err
	}
	defer unix.Unmount(scratchDir, unix.MNT_DETACH)
	return do(scratchDir)
}

func isMountPoint(path string) bool {
	var here, parent unix.Stat_t
	if unix.Stat(path, &here) != nil || unix.Stat(filepath.Dir(path), &parent) != nil {
		return false
	}
	return here.Dev != parent.Dev
}
