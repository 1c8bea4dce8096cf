package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// Offsets in a bzImage's setup header, as the x86 boot protocol names them.
const (
	offSetupSects    = 0x1f1
	offMagic         = 0x202
	offPayload       = 0x248
	offPayloadLength = 0x24c
	setupHeaderEnd   = 0x250
	maxVmlinux       = 1 << 30
)

// compressions are what a kernel can be compressed with. Those without a reader are here
// so that errors can name them.
var compressions = []struct {
	name  string
	magic string
	open  func(io.Reader) (io.Reader, error)
}{
	{"zstd", "\x28\xb5\x2f\xfd", func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(256<<20))
	}},
	{"gzip", "\x1f\x8b", func(r io.Reader) (io.Reader, error) {
		in, err := gzip.NewReader(r)
		if err == nil {
			in.Multistream(false)
		}
		return in, err
	}},
	{"xz", "\xfd7zXZ\x00", nil},
	{"lz4", "\x02\x21\x4c\x18", nil},
	{"bzip2", "BZh", nil},
	{"lzma", "\x5d\x00\x00", nil},
	{"lzo", "\x89LZO", nil},
}

// extractVmlinux writes the ELF kernel inside a bzImage, the only form that every VMM
// can start.
func extractVmlinux(image, out string) error {
	file, err := os.Open(image)
	if err != nil {
		return err
	}
	defer file.Close()
	payload, size, err := payloadOf(file)
	if err != nil {
		return err
	}
	plain, err := openPayload(payload)
	if err != nil {
		return err
	}
	if err := writeFile(out, io.LimitReader(plain, int64(size))); err != nil {
		return fmt.Errorf("unpack it: %w", err)
	}
	return checkVmlinux(out, size)
}

// payloadOf returns the compressed part of a bzImage and its decompressed size, which is
// in its last four bytes.
func payloadOf(file io.ReaderAt) (io.Reader, uint32, error) {
	header := make([]byte, setupHeaderEnd)
	if _, err := file.ReadAt(header, 0); err != nil || string(header[offMagic:offMagic+4]) != "HdrS" {
		return nil, 0, errors.New("it is not a bzImage")
	}
	sects := int64(header[offSetupSects])
	if sects == 0 { // means 4 in old kernels
		sects = 4
	}
	begin := (sects+1)*512 + int64(binary.LittleEndian.Uint32(header[offPayload:]))
	length := int64(binary.LittleEndian.Uint32(header[offPayloadLength:]))
	last := make([]byte, 4)
	if length < 8 {
		return nil, 0, errors.New("its compressed part is empty")
	}
	if _, err := file.ReadAt(last, begin+length-4); err != nil {
		return nil, 0, fmt.Errorf("read its compressed part: %w", err)
	}
	size := binary.LittleEndian.Uint32(last)
	if size > maxVmlinux {
		return nil, 0, fmt.Errorf("it claims to unpack to %d bytes", size)
	}
	return io.NewSectionReader(file, begin, length), size, nil
}

func openPayload(payload io.Reader) (io.Reader, error) {
	begin := make([]byte, 6)
	if _, err := io.ReadFull(payload, begin); err != nil {
		return nil, err
	}
	for _, c := range compressions {
		if !bytes.HasPrefix(begin, []byte(c.magic)) {
			continue
		}
		if c.open == nil {
			return nil, fmt.Errorf("it is compressed with %s, which banger cannot read", c.name)
		}
		return c.open(io.MultiReader(bytes.NewReader(begin), payload))
	}
	return nil, fmt.Errorf("its compression is unknown: it begins with %x", begin)
}

func checkVmlinux(path string, size uint32) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() != int64(size) {
		return fmt.Errorf("it decompresses to %d bytes, not to the %d that it claims", info.Size(), size)
	}
	file, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("it does not contain an ELF kernel: %w", err)
	}
	defer file.Close()
	if file.Machine != elf.EM_X86_64 {
		return fmt.Errorf("it is for %v, not for x86-64", file.Machine)
	}
	return nil
}
