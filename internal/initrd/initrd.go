// Package initrd writes initial RAM disks: cpio archives one after another,
// first what a kernel set and an agent make together, then what one boot of one
// VM needs. It does not choose the modules and knows no configuration's content.
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

// Limits of what goes in: all of it is in the guest's memory until the boot is over.
const (
	maxPart   = 256 << 20
	maxConfig = 1 << 20
)

// Page is what an initrd's size is a multiple of. QEMU loads one so that it ends less
// than a page below the end of the guest's memory, and the SeaBIOS of Debian 13 has
// put ACPI's tables into the last page by then, without which a kernel finds no device.
// An initrd that fills its pages ends a page below.
const Page = 4096

// Rest is how many zeros make an initrd of this size one that fills its pages. Kernels
// skip them.
func Rest(size int64) int64 { return -size & (Page - 1) }

// WriteBase writes what all VMs with this kernel set and this agent share:
// the agent as /init, what a first process needs before it has mounted anything,
// and bootModules, which is an archive already.
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
		archive.Dir(dir, 0o755) // an error stays until the next call that is looked at
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
		err = fmt.Errorf("%s is no file, or larger than an initrd's part may be", path)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// Make writes the initrd of one boot: base, and after it an archive with the
// VM's configuration. The file holds secrets, so it is its owner's alone from
// the start; an older one is replaced at once or not at all.
func Make(path, base string, config []byte) (err error) {
	if len(config) > maxConfig {
		return fmt.Errorf("write initrd: the VM's configuration has %d bytes, more than the %d it may have", len(config), maxConfig)
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
	if _, err := io.Copy(out, in); err != nil { // in the kernel, shared blocks where the file system can
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
