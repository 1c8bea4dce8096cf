package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"banger"
	"banger/internal/hostcmd"
)

// Where ext4 keeps what Errors reads, in bytes from the superblock's start.
// https://docs.kernel.org/filesystems/ext4/super.html
const (
	superblock   = 1024 // from the disk's start
	blocksLow    = 0x4
	logBlockSize = 0x18
	magic        = 0x38
	state        = 0x3a
	incompatible = 0x60
	blocksHigh   = 0x150
	errorCount   = 0x194
)

const restore = "restore the file from a backup, or delete the VM"

// Errors returns how many errors the guest's kernel has recorded in the disk's
// superblock since the last check, and 0 for a healthy disk. A disk that was not
// unmounted can have more of them in its journal. Errors only reads the file. A
// file without ext4, or shorter than its ext4, is a Conflict.
func Errors(path string) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	super := make([]byte, 1024)
	if _, err := file.ReadAt(super, superblock); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	short, long := func(at int) uint16 { return binary.LittleEndian.Uint16(super[at:]) },
		func(at int) uint32 { return binary.LittleEndian.Uint32(super[at:]) }
	if short(magic) != 0xef53 {
		return 0, damaged(fmt.Errorf("%s does not contain an ext4 file system", path), restore)
	}
	blocks := uint64(long(blocksLow))
	if long(incompatible)&0x80 != 0 { // 64bit
		blocks |= uint64(long(blocksHigh)) << 32
	}
	if want := blocks << (10 + long(logBlockSize)&7); uint64(info.Size()) < want {
		return 0, damaged(fmt.Errorf("%s is cut off: it has %d of its %d bytes", path, info.Size(), want), restore)
	}
	count := int(long(errorCount))
	if short(state)&2 != 0 { // the error flag
		count = max(count, 1)
	}
	return count, nil
}

// Check repairs the file system on a disk that no VMM has open, as far as
// e2fsck may without asking, and clears the recorded errors. A disk that needs
// a person's decisions is a Conflict.
func Check(ctx context.Context, run hostcmd.Runner, path string) error {
	e2fsck, err := run.Look("e2fsck")
	if err != nil {
		return err
	}
	_, err = run.Run(ctx, hostcmd.Cmd{Argv: []string{e2fsck, "-f", "-p", path}, Stdout: io.Discard})
	var failed *hostcmd.Error
	if !errors.As(err, &failed) || failed.Status < 0 {
		return err
	}
	const uncorrected, operational = 4, 8 // bits; the lower ones say what was repaired
	switch {
	case failed.Status&uncorrected != 0:
		return damaged(fmt.Errorf("%s has errors that e2fsck does not repair without asking", path), e2fsck+" -f "+path)
	case failed.Status < operational:
		return nil
	}
	return err
}

// damaged is the error of a disk that no VM can be started with as it is.
func damaged(why error, fix string) error {
	return &banger.Error{Kind: banger.Conflict, Why: why, Fix: fix}
}
