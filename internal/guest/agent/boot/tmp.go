package boot

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/imageinit"
	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/linux"
)

// mountTemporary mounts /tmp as systemd would, but before anything can write there:
// systemd takes the mount over, and hides no file.
func (b *boot) mountTemporary() error {
	if b.kind != imageinit.Systemd || !systemdMountsTmp(layout.NewRoot) {
		return nil
	}
	dir, err := inroot.Dir(layout.NewRoot, "/tmp", 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_STRICTATIME
	if err := unix.Mount("tmpfs", linux.Through(dir), "tmpfs", flags, "mode=1777,size=50%,nr_inodes=1m"); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	return nil
}

// systemdMountsTmp reports whether the image's systemd mounts /tmp by its own unit.
// What the user has configured is left to systemd.
func systemdMountsTmp(root string) bool {
	for _, own := range []string{"/etc/systemd/system/tmp.mount", "/etc/systemd/system/tmp.mount.d"} {
		if inroot.HasName(root, own) {
			return false
		}
	}
	if fstabHas(root, "/tmp") || inroot.IsLink(root, "/tmp") {
		return false
	}
	for _, units := range []string{"/usr/lib", "/lib", "/etc"} {
		if inroot.HasName(root, units+"/systemd/system/local-fs.target.wants/tmp.mount") {
			return true
		}
	}
	return false
}

// fstabHas reports whether the image's fstab mounts something at path, or may do so.
func fstabHas(root, path string) bool {
	table, err := inroot.Read(root, "/etc/fstab")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && !strings.HasPrefix(fields[0], "#") && filepath.Clean(fields[1]) == path {
			return true
		}
	}
	return false
}
