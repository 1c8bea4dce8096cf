package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// superblock is what the agent needs of an ext4 file system's.
type superblock struct {
	label     string
	blocks    uint64
	blockSize uint64
	errors    int64  // found since the last e2fsck
	lastError string // where the last of them was found
}

var errNotExt4 = errors.New("not an ext4 file system")

// readSuperblock reads it from a device. The content is not trusted.
func readSuperblock(r io.ReaderAt) (superblock, error) {
	const (
		offset    = 1024
		blocksLo  = 0x04
		logSize   = 0x18
		magic     = 0x38
		state     = 0x3A
		incompat  = 0x60
		label     = 0x78
		blocksHi  = 0x150
		feature64 = 0x80
		hasErrors = 2
	)
	raw := make([]byte, 1024)
	if _, err := r.ReadAt(raw, offset); err != nil {
		return superblock{}, fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(raw[magic:]) != 0xEF53 {
		return superblock{}, errNotExt4
	}
	shift := le.Uint32(raw[logSize:])
	if shift > 6 {
		return superblock{}, fmt.Errorf("superblock has a block size of 1024 << %d", shift)
	}
	s := superblock{blocks: uint64(le.Uint32(raw[blocksLo:])), blockSize: 1024 << shift}
	if le.Uint32(raw[incompat:])&feature64 != 0 {
		s.blocks |= uint64(le.Uint32(raw[blocksHi:])) << 32
	}
	name, _, _ := bytes.Cut(raw[label:label+16], []byte{0})
	s.label = string(name)
	if s.readErrors(raw); le.Uint16(raw[state:])&hasErrors != 0 {
		s.errors = max(s.errors, 1)
	}
	return s, nil
}

// readErrors reads how many errors the kernel has recorded, and the last of them.
func (s *superblock) readErrors(raw []byte) {
	const (
		count     = 0x194
		lastInode = 0x1D0
		lastLine  = 0x1D4
		lastBlock = 0x1D8
		lastFunc  = 0x1E0
	)
	le := binary.LittleEndian
	s.errors = int64(le.Uint32(raw[count:]))
	if function, _, _ := bytes.Cut(raw[lastFunc:lastFunc+32], []byte{0}); s.errors > 0 && len(function) > 0 {
		s.lastError = fmt.Sprintf("found in %s:%d at inode %d, block %d",
			function, le.Uint32(raw[lastLine:]), le.Uint32(raw[lastInode:]), le.Uint64(raw[lastBlock:]))
	}
}

func superblockOf(device string) (superblock, error) {
	f, err := os.Open(device)
	if err != nil {
		return superblock{}, err
	}
	defer f.Close()
	return readSuperblock(f)
}

// ext4ResizeFS is EXT4_IOC_RESIZE_FS of the kernel's fs/ext4/ext4.h.
const ext4ResizeFS = 0x40086610

// grow makes the mounted file system of device as large as the device. dir is
// any directory on it.
func grow(device string, dir *os.File) error {
	s, err := superblockOf(device)
	if err != nil {
		return err
	}
	size, err := deviceSize(device)
	if err != nil {
		return err
	}
	blocks := size / s.blockSize
	if blocks <= s.blocks {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return fmt.Errorf("grow %s from %d to %d blocks: %w", device, s.blocks, blocks, errno)
	}
	logf(prioInfo, "%s (%s) grown from %d to %d blocks", device, s.label, s.blocks, blocks)
	return nil
}

func deviceSize(device string) (uint64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", device, err)
	}
	return uint64(end), nil
}

// growMounted grows the mounted file system of device without a place in the
// mount table: the mount made here is never attached, and shares the file
// system's one superblock.
func growMounted(device string) error {
	fs, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", device); err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	defer unix.Close(mount)
	fd, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("grow %s: %w", device, err)
	}
	dir := os.NewFile(uintptr(fd), device)
	defer dir.Close()
	return grow(device, dir)
}
