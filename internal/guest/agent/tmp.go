package agent

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountTemporary mounts what systemd would mount onto /tmp, as it would, before
// anybody can write there: systemd takes it over, and hides nothing.
func (b *boot) mountTemporary() error {
	if b.kind != initSystemd || !systemdMountsTmp(newRoot) {
		return nil
	}
	dir, err := dirIn(newRoot, "/tmp", 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_STRICTATIME
	if err := unix.Mount("tmpfs", through(dir), "tmpfs", flags, "mode=1777,size=50%,nr_inodes=1m"); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	return nil
}

// systemdMountsTmp says whether the image's systemd mounts /tmp by the unit that
// it comes with. Whatever is the user's own is left to systemd.
func systemdMountsTmp(root string) bool {
	for _, own := range []string{"/etc/systemd/system/tmp.mount", "/etc/systemd/system/tmp.mount.d"} {
		if nameIn(root, own) {
			return false
		}
	}
	if fstabHas(root, "/tmp") || isLinkIn(root, "/tmp") {
		return false
	}
	for _, units := range []string{"/usr/lib", "/lib", "/etc"} {
		if nameIn(root, units+"/systemd/system/local-fs.target.wants/tmp.mount") {
			return true
		}
	}
	return false
}

// nameIn says whether path is there inside root, be it a link to nowhere.
func nameIn(root, path string) bool {
	f, err := openIn(root, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func isLinkIn(root, path string) bool {
	f, err := openIn(root, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false
	}
	defer f.Close()
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// fstabHas says whether the image's fstab mounts something there, or may do so.
func fstabHas(root, path string) bool {
	table, err := readIn(root, "/etc/fstab")
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
