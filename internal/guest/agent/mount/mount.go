// Package mount puts the VM's writable disks into the root file system: the direct
// directories and the work disk. The boot does it first, the server again after a
// soft reboot. It does not find the disks.
package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/disk"
	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/layout"
	"banger/internal/guest/wire"
	"banger/internal/linux"
)

// workRoot is the directory of the work disk that is mounted: lost+found stays outside.
const workRoot = "root"

// Direct mounts a directory of the raw overlay disk onto path inside root. Container
// engines need that: overlayfs cannot carry another overlayfs.
func Direct(root, disk, path string) error {
	dir, err := inroot.Dir(root, path, 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := os.MkdirAll(disk+"/direct", 0o700); err != nil {
		return err
	}
	source := filepath.Join(disk, "direct", EscapePath(path))
	if err := seed(linux.Through(dir)+"/.", source); err != nil {
		return err
	}
	return Bind(root, path, source)
}

// EscapePath turns a path into a file name, a different one for each path. systemd
// names the path's mount unit so.
func EscapePath(path string) string {
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

// Work mounts the work disk, which is mounted at disk, onto path inside root.
func Work(root, disk, path string) error {
	dir, err := inroot.Dir(root, path, 0o700)
	if err != nil {
		return err
	}
	defer dir.Close()
	source := filepath.Join(disk, workRoot)
	if err := seed(linux.Through(dir)+"/.", source); err != nil {
		return err
	}
	return Bind(root, path, source)
}

// Bind binds a directory onto path inside root.
func Bind(root, path, source string) error {
	dir, err := inroot.Dir(root, path, 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Mount(source, linux.Through(dir), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	return nil
}

// AfterSoftReboot mounts again what systemd unmounted when it restarted all of user
// space.
func AfterSoftReboot(c wire.Config) error {
	found := disk.Devices()
	var errs []error
	for _, path := range c.Direct {
		if !isMountPoint(path) {
			errs = append(errs, withDisk(found[wire.LabelOverlay], func(dir string) error {
				return Direct("/", dir, path)
			}))
		}
	}
	if c.WorkMount != "" && !isMountPoint(c.WorkMount) {
		errs = append(errs, withDisk(found[wire.LabelWork], func(dir string) error {
			return Work("/", dir, c.WorkMount)
		}))
	}
	return errors.Join(errs...)
}

// withDisk mounts a disk while do runs.
func withDisk(device string, do func(dir string) error) error {
	if err := disk.MountGrown(device, layout.ScratchDir); err != nil {
		return err
	}
	defer unix.Unmount(layout.ScratchDir, unix.MNT_DETACH)
	return do(layout.ScratchDir)
}

func isMountPoint(path string) bool {
	var here, parent unix.Stat_t
	if unix.Stat(path, &here) != nil || unix.Stat(filepath.Dir(path), &parent) != nil {
		return false
	}
	return here.Dev != parent.Dev
}
