// Package initrd writes initial RAM disks: cpio archives one after another. First
// come the agent and the boot modules, which many VMs share, then the configuration
// of one boot of one VM. It does not choose the modules or know what a configuration
// holds.
package initrd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"banger/internal/guest/wire"
)

// Limits of the parts: the guest keeps the initrd in memory until the boot is over.
const (
	maxPart   = 256 << 20
	maxConfig = 1 << 20
)

// Page divides an initrd's size. QEMU loads an initrd so that it ends less than a page
// below the end of the guest's memory. By then the SeaBIOS of Debian 13 has put ACPI's
// tables into that last page, and without them the kernel finds no device. An initrd of
// whole pages ends a page lower.
const Page = 4096

// Rest returns how many zeros to append to an initrd of this size so that it fills its
// last page. Kernels skip them.
func Rest(size int64) int64 { return -size & (Page - 1) }

// WriteBase writes the archives that all VMs with this kernel set and agent share:
// the agent as /init with the directories and the device it needs before it mounts
// anything, and bootModules, which is an archive already.
func WriteBase(w io.Writer, agent, bootModules string) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	if err := writeAgent(buffered, agent); err != nil {
		return err
	}
	if err := copyArchive(buffered, bootModules); err != nil {
		return err
	}
	return buffered.Flush()
}

func writeAgent(w io.Writer, agent string) error {
	file, size, err := open(agent)
	if err != nil {
		return fmt.Errorf("open the agent: %w", err)
	}
	defer file.Close()
	archive := NewWriter(w)
	for _, dir := range []string{"dev", "proc", "sys", "run"} {
		archive.Dir(dir, 0o755) // File returns an earlier error
	}
	archive.Char("dev/console", 0o600, 5, 1)
	if err := archive.File("init", 0o755, size, file); err != nil {
		return err
	}
	return archive.Close()
}

func copyArchive(w io.Writer, path string) error {
	file, size, err := open(path)
	if err != nil {
		return fmt.Errorf("open the boot modules: %w", err)
	}
	defer file.Close()
	in := bufio.NewReader(file)
	if magic, err := in.Peek(6); err != nil || string(magic) != "070701" || size%4 != 0 {
		return fmt.Errorf("read the boot modules: %s is not a whole cpio archive", path)
	}
	_, err = io.CopyN(w, in, size)
	if err != nil {
		return fmt.Errorf("copy the boot modules: %w", err)
	}
	return nil
}

func open(path string) (*os.File, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxPart) {
		err = fmt.Errorf("%s is not a regular file, or is larger than %d bytes", path, maxPart)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// Make writes the initrd of one boot: base, then an archive with the VM's
// configuration. The file holds secrets, so it is created with mode 0600. Make
// replaces an older file atomically.
func Make(path, base string, config []byte) (err error) {
	if len(config) > maxConfig {
		return fmt.Errorf("write initrd: the VM's configuration has %d bytes; the limit is %d", len(config), maxConfig)
	}
	in, size, err := open(base)
	if err != nil {
		return fmt.Errorf("open base initrd: %w", err)
	}
	defer in.Close()
	if size%4 != 0 {
		return fmt.Errorf("read base initrd: %s is cut off", base)
	}
	out, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // 0600
	if err != nil {
		return fmt.Errorf("create initrd: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(out.Name())
		}
	}()
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil { // by copy_file_range, which can share blocks
		return fmt.Errorf("copy base initrd: %w", err)
	}
	archive := NewWriter(out)
	archive.File(wire.ConfigPath, 0o600, int64(len(config)), bytes.NewReader(config))
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	size += archive.written
	if err := out.Truncate(size + Rest(size)); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	if err := os.Rename(out.Name(), path); err != nil {
		return fmt.Errorf("put initrd in place: %w", err)
	}
	return nil
}
