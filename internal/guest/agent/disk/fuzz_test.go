package disk

import (
	"bytes"
	"strings"
	"testing"
)

func FuzzReadSuperblock(f *testing.F) {
	f.Add(newSuperblock(nil))
	f.Add(newSuperblock(func(sb []byte) { sb[0x60] = 0x80; sb[0x150] = 0xff }))
	f.Add(newSuperblock(func(sb []byte) { sb[0x18] = 7 }))
	f.Add(newSuperblock(func(sb []byte) { copy(sb[0x78:], "0123456789abcdef0123") }))
	f.Add(make([]byte, 2047))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := readSuperblock(bytes.NewReader(b))
		if err != nil {
			if s != (superblock{}) {
				t.Errorf("%+v beside %v", s, err)
			}
			return
		}
		if len(s.label) > 16 || strings.Contains(s.label, "\x00") {
			t.Errorf("label %q", s.label)
		}
		if s.blockSize < 1024 || s.blockSize > 64<<10 || s.blockSize&(s.blockSize-1) != 0 {
			t.Errorf("block size %d", s.blockSize)
		}
	})
}
