package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"banger"
	"banger/internal/bundle"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
)

// content is what a file holds that is no archive, for people.
type content string

const ext4Disk content = "an ext4 file system"

// contents are recognised by what they have at one place.
var contents = []struct {
	at    int64
	magic string
	is    content
}{
	{1080, "\x53\xef", ext4Disk},
	{0, "QFI\xfb", "a disk of QEMU (qcow2)"},
	{0, "KDMV", "a disk of VMware"},
	{0, "hsqs", "a SquashFS file system"},
	{0, "XFSB", "an XFS file system"},
	{1024, "\xe2\xe1\xf5\xe0", "an EROFS file system"},
	{0x10040, "_BHRfS_M", "a Btrfs file system"},
	{32769, "CD001", "an image of a CD"},
	{512, "EFI PART", "a disk with partitions"},
	{510, "\x55\xaa", "a disk with partitions"},
}

// contentOf returns what a file holds, or "" if it may be an archive.
func contentOf(file io.ReaderAt) (content, error) {
	for _, c := range contents {
		found := make([]byte, len(c.magic))
		n, err := file.ReadAt(found, c.at)
		if err != nil && err != io.EOF {
			return "", err
		}
		if bytes.Equal(found[:n], []byte(c.magic)) && !tarAt0(file) {
			return c.is, nil
		}
	}
	return "", nil
}

// tarAt0 reports whether a file begins as a tar archive does, in whose files anything may be.
func tarAt0(file io.ReaderAt) bool {
	magic := make([]byte, 5)
	n, _ := file.ReadAt(magic, 257)
	return string(magic[:n]) == "ustar"
}

func (c content) refuse() error {
	return banger.Invalidf("mount it and pack what is in it: tar -C DIRECTORY -cf rootfs.tar .", "the file is %s; a tar archive, an image of a container and an ext4 file system can be imported", c)
}

// maxDiskImage is the largest file system that is taken as it is.
const maxDiskImage = 64 * banger.GiB

// takenAsItIs is the note about what an import cannot clean.
const takenAsItIs = "the file system is taken as it is, with its host keys, logs and caches; VMs have keys and names of their own"

// writeDisk takes a copy of an ext4 file system. It repairs the copy, since nothing can be
// repaired once VMs share it, and gives it the label by which guests find it.
func (m *making) writeDisk(ctx context.Context, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if banger.Size(info.Size()) > maxDiskImage {
		return banger.Invalidf("use a smaller file system", "the file system has %v, which is more than %v", banger.Size(info.Size()), maxDiskImage)
	}
	path := m.stage.Rootfs()
	err = disk.Copy(ctx, m.Run, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd()), path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return m.wrote("", 0, err)
	}
	if err := m.prepareDisk(ctx, path); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(path, 0o444), durable.Sync(path)); err != nil {
		return err
	}
	digest, size, err := bundle.FileDigest(ctx, path)
	m.note = takenAsItIs
	return m.wrote(digest, size, err)
}

func (m *making) prepareDisk(ctx context.Context, path string) error {
	result, err := disk.Check(ctx, m.Run, path)
	if result == banger.FsckDamaged {
		return banger.Invalidf("e2fsck -f FILE, and then import it", "the file system has errors")
	}
	if err != nil {
		return err
	}
	names, err := m.debugfs(ctx, path)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(roots, func(root string) bool { return slices.Contains(names, root) }) {
		return banger.Invalidf("name the file with a root file system", "the file system is not one of a machine: it has none of /bin, /etc, /sbin, /usr")
	}
	tune, err := m.Run.Look("tune2fs")
	if err != nil {
		return err
	}
	_, err = m.Run.Run(ctx, hostcmd.Cmd{Argv: []string{tune, "-L", wire.LabelBase, path}})
	return err
}

// debugfs returns the names in the root directory of a file system.
func (m *making) debugfs(ctx context.Context, path string) ([]string, error) {
	program, err := m.Run.Look("debugfs")
	if err != nil {
		return nil, err
	}
	out, err := m.Run.Run(ctx, hostcmd.Cmd{Argv: []string{program, "-R", "ls -p /", path}})
	var names []string
	for line := range strings.SplitSeq(string(out), "\n") {
		// /INODE/MODE/UID/GID/NAME/SIZE/
		if fields := strings.Split(line, "/"); len(fields) > 5 {
			names = append(names, fields[5])
		}
	}
	return names, err
}
