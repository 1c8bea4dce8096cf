package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/agent/modprobe"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/agent/process"
	"banger/internal/guest/wire"
	"banger/internal/linux"
)

// Where the disks are mounted while the boot builds the root file system.
const (
	baseDir    = "/base"
	overlayDir = "/rw"
	modulesDir = "/mods"
	workDir    = "/work"
)

// kernelMount is a file system of the kernel's own.
type kernelMount struct {
	fs, target, options string
	flags               uintptr
}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func (m kernelMount) make() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.fs, m.target, m.fs, m.flags, m.options)
	if err != nil && err != unix.EBUSY {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

func makeAll(mounts []kernelMount) error {
	for _, m := range mounts {
		if err := m.make(); err != nil {
			return err
		}
	}
	return nil
}

func (b *boot) mountKernel() error {
	err := makeAll([]kernelMount{
		{"proc", "/proc", "", plain},
		{"sysfs", "/sys", "", plain},
		{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
	})
	if err != nil {
		return err
	}
	log.Open()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	b.release = unix.ByteSliceToString(name.Release[:])
	return nil
}

func (b *boot) findDisks() (err error) {
	need := []string{wire.LabelBase, wire.LabelModules, wire.LabelOverlay}
	if b.config.WorkMount != "" {
		need = append(need, wire.LabelWork)
	}
	b.disks, err = disk.Find(need)
	return err
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
	if err := disk.MountGrown(b.disks[wire.LabelOverlay], overlayDir); err != nil {
		return err
	}
	if err := os.MkdirAll(overlayDir+"/work", 0o700); err != nil {
		return err
	}
	return mirrorDir(baseDir, overlayDir+"/upper")
}

// mirrorDir makes a directory with the owner and mode of another one.
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

// overlayOptions must never change: an upper layer is not safe with other options.
const overlayOptions = "lowerdir=" + baseDir + ",upperdir=" + overlayDir + "/upper,workdir=" + overlayDir +
	"/work,redirect_dir=on,index=on,xino=auto,metacopy=off"

func (b *boot) mountRoot() error {
	if err := os.MkdirAll(layout.NewRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("overlay", layout.NewRoot, "overlay", 0, overlayOptions); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

func (b *boot) mountModules() error {
	if err := mountReadOnly(b.disks[wire.LabelModules], modulesDir); err != nil {
		return err
	}
	return mount.Bind(layout.NewRoot, b.modulesPath(), modulesDir)
}

func (b *boot) modulesPath() string { return "/lib/modules/" + b.release }

func (b *boot) mountDirect() error {
	for _, path := range b.config.Direct {
		if err := mount.Direct(layout.NewRoot, overlayDir, path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (b *boot) mountWork() error {
	if b.config.WorkMount == "" {
		return nil
	}
	if err := disk.MountGrown(b.disks[wire.LabelWork], workDir); err != nil {
		return err
	}
	return mount.Work(layout.NewRoot, workDir, b.config.WorkMount)
}

func (b *boot) mountRun() error {
	dir, err := inroot.Dir(layout.NewRoot, "/run", 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Mount("tmpfs", linux.Through(dir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=20%,nr_inodes=800k"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return nil
}

func (b *boot) mountRest() error {
	err := makeAll([]kernelMount{
		{"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"cgroup2", layout.CgroupRoot, "nsdelegate,memory_recursiveprot", plain},
	})
	if err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if b.kind != imageinit.Systemd {
		modprobe.MakeStaticNodes(layout.NewRoot, b.release)
	}
	return process.MakeCgroups()
}

// becomeRoot makes the new root the root of process 1, and with it of the programs
// that the kernel starts. A chroot of the children alone would not do that.
func (b *boot) becomeRoot() error {
	for _, dir := range []string{baseDir, overlayDir, modulesDir, workDir} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("detach %s: %w", dir, err)
		}
	}
	for _, dir := range []string{"/sys", "/dev", "/proc"} {
		target, err := inroot.Dir(layout.NewRoot, dir, 0o755)
		if err != nil {
			return err
		}
		err = unix.Mount(dir, linux.Through(target), "", unix.MS_MOVE, "")
		target.Close()
		if err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	deleteInitramfs()
	return enterRoot(layout.NewRoot)
}

// deleteInitramfs frees the memory of the unpacked initrd.
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
