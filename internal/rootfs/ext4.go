package rootfs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"banger"
)

const (
	superblock = 1024
	uuidAt     = superblock + 0x68
	labelAt    = superblock + 0x78
	labelSize  = 16
	blockSize  = 4096

	// maxDisk has space for the metadata of maxData bytes.
	maxDisk = int64(64 * banger.GiB)
)

// convert writes the archive that emit produces as ext4. Without a UUID the kernel
// disables parts of overlayfs. The UUID is derived from the archive, since a random
// one would make two builds of the same archive differ.
func convert(f *os.File, emit func(io.Writer) error, label string) error {
	read, write := io.Pipe()
	sum := sha256.New()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w := bufio.NewWriterSize(io.MultiWriter(sum, write), 1<<18)
		err := emit(w)
		if err == nil {
			err = w.Flush()
		}
		write.CloseWithError(err)
	}()
	holes := &holeWriter{f: f}
	err := toExt4(read, holes)
	read.CloseWithError(err)
	<-done
	if err != nil {
		return err
	}
	if err := holes.finish(); err != nil {
		return err
	}
	return stamp(f, sum.Sum([]byte(label)), label)
}

// toExt4 runs tar2ext4 and returns its panics as errors.
func toExt4(r io.Reader, w io.ReadWriteSeeker) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("write ext4: %v", p)
		}
	}()
	if err := tar2ext4.ConvertTarToExt4(r, w, tar2ext4.MaximumDiskSize(maxDisk)); err != nil {
		return fmt.Errorf("write ext4: %w", err)
	}
	return nil
}

// stamp sets the UUID and the label. The superblock has no checksum to update.
func stamp(f *os.File, seed []byte, label string) error {
	sum := sha256.Sum256(seed)
	uuid := sum[:16]
	uuid[6] = uuid[6]&0x0f | 0x80 // version 8: made by a rule of our own
	uuid[8] = uuid[8]&0x3f | 0x80
	name := make([]byte, labelSize)
	copy(name, label)
	if _, err := f.WriteAt(uuid, uuidAt); err != nil {
		return err
	}
	_, err := f.WriteAt(name, labelAt)
	return err
}

// measure reads the file back and returns its digest and size.
func measure(ctx context.Context, f *os.File) (Result, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Result{}, err
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, reader{ctx, f}, make([]byte, 1<<20))
	if err != nil {
		return Result{}, fmt.Errorf("read file system: %w", err)
	}
	return Result{Digest: banger.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), Size: banger.Size(n)}, nil
}

// holeWriter does not write blocks of zeros at the end of the file, so that holes in
// an archive stay holes.
type holeWriter struct {
	f       *os.File
	at      int64 // where the next write goes
	written int64 // the end of what was written
	end     int64 // the end of the file, with holes
}

var zeros [blockSize]byte

func (h *holeWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := h.run(p[done:])
		if n > 0 {
			if _, err := h.f.WriteAt(p[done:done+n], h.at); err != nil {
				return done, err
			}
			h.written = max(h.written, h.at+int64(n))
		} else {
			n = blockSize
		}
		h.at += int64(n)
		h.end = max(h.end, h.at)
		done += n
	}
	return len(p), nil
}

// run returns how many bytes of p come before the next block that can stay a hole.
func (h *holeWriter) run(p []byte) int {
	n := 0
	for n < len(p) {
		at := h.at + int64(n)
		left := min(len(p)-n, int(blockSize-at%blockSize))
		if left == blockSize && at >= h.written && bytes.Equal(p[n:n+left], zeros[:]) {
			break
		}
		n += left
	}
	return n
}

func (h *holeWriter) Read(p []byte) (int, error) {
	n, err := h.f.ReadAt(p, h.at)
	h.at += int64(n)
	return n, err
}

func (h *holeWriter) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += h.at
	case io.SeekEnd:
		offset += h.end
	}
	h.at = offset
	return h.at, nil
}

// finish sets the file's length.
func (h *holeWriter) finish() error { return h.f.Truncate(h.end) }
