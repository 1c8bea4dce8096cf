// Package disk finds the VM's disks in a guest, mounts and grows the writable
// ones, and watches them for errors. It does not know where they are mounted.
package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// superblock holds what the agent needs from an ext4 file system's superblock.
type superblock struct {
	label     string
	uuid      [16]byte
	blocks    uint64
	blockSize uint64
	errors    int64  // found since the last e2fsck
	lastError string // where the last of them was found
}

var errNotExt4 = errors.New("not an ext4 file system")

// readSuperblock reads the superblock of a device. The content is not trusted.
func readSuperblock(r io.ReaderAt) (superblock, error) {
	const (
		offset    = 1024
		blocksLo  = 0x04
		logSize   = 0x18
		magic     = 0x38
		state     = 0x3A
		incompat  = 0x60
		uuid      = 0x68
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
	copy(s.uuid[:], raw[uuid:])
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
