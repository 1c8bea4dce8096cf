package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// newSuperblock is the start of an ext4 file system.
func newSuperblock(change func(sb []byte)) []byte {
	disk := make([]byte, 2048)
	sb := disk[1024:]
	binary.LittleEndian.PutUint32(sb[0x04:], 524288)
	binary.LittleEndian.PutUint32(sb[0x18:], 2)
	binary.LittleEndian.PutUint16(sb[0x38:], 0xEF53)
	copy(sb[0x78:], "banger-ovl\x00rubbish")
	if change != nil {
		change(sb)
	}
	return disk
}

// withErrors records three errors in a superblock.
func withErrors(sb []byte) {
	sb[0x3A], sb[0x194] = 2, 3
	binary.LittleEndian.PutUint32(sb[0x1D0:], 2)
	binary.LittleEndian.PutUint32(sb[0x1D4:], 1080)
	binary.LittleEndian.PutUint64(sb[0x1D8:], 33)
	copy(sb[0x1E0:], "ext4_lookup")
}

func TestReadSuperblock(t *testing.T) {
	for name, c := range map[string]struct {
		disk []byte
		want superblock
		ok   bool
	}{
		"plain": {newSuperblock(nil), superblock{label: "banger-ovl", blocks: 524288, blockSize: 4096}, true},
		"64bit": {newSuperblock(func(sb []byte) {
			binary.LittleEndian.PutUint32(sb[0x60:], 0x80)
			binary.LittleEndian.PutUint32(sb[0x150:], 1)
		}), superblock{label: "banger-ovl", blocks: 1<<32 + 524288, blockSize: 4096}, true},
		"high half without 64bit": {newSuperblock(func(sb []byte) {
			binary.LittleEndian.PutUint32(sb[0x150:], 1)
		}), superblock{label: "banger-ovl", blocks: 524288, blockSize: 4096}, true},
		"label of 16 bytes": {newSuperblock(func(sb []byte) { copy(sb[0x78:], "0123456789abcdefX") }),
			superblock{label: "0123456789abcdef", blocks: 524288, blockSize: 4096}, true},
		"marked": {newSuperblock(func(sb []byte) { sb[0x3A] = 3 }),
			superblock{label: "banger-ovl", blocks: 524288, blockSize: 4096, errors: 1}, true},
		"with errors": {newSuperblock(withErrors),
			superblock{label: "banger-ovl", blocks: 524288, blockSize: 4096, errors: 3, lastError: "found in ext4_lookup:1080 at inode 2, block 33"}, true},
		"huge block size": {newSuperblock(func(sb []byte) { binary.LittleEndian.PutUint32(sb[0x18:], 60) }), superblock{}, false},
		"short":           {make([]byte, 1500), superblock{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readSuperblock(bytes.NewReader(c.disk))
			if got != c.want || (err == nil) != c.ok {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
	if _, err := readSuperblock(bytes.NewReader(make([]byte, 2048))); !errors.Is(err, errNotExt4) {
		t.Errorf("an empty disk gives %v", err)
	}
}
