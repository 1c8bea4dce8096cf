package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
)

// chunk is how much is read at once. The context is checked before each chunk.
const chunk = 1 << 20

var zeros [chunk]byte

// FileDigest returns the SHA-256 of a file's content and its size. It hashes holes
// without reading them.
func FileDigest(ctx context.Context, path string) (banger.Digest, banger.Size, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	sum := sha256.New()
	size, err := walkData(ctx, file, func(hole, data int64) error {
		if err := hashZeros(ctx, sum, hole); err != nil {
			return err
		}
		return copyChunks(ctx, sum, &io.LimitedReader{R: file, N: data})
	})
	if err != nil {
		return "", 0, fmt.Errorf("hash %s: %w", path, err)
	}
	return digestOf(sum), banger.Size(size), nil
}

func digestOf(sum hash.Hash) banger.Digest {
	return banger.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
}

// KernelDigest returns the digest and the size of a kernel set. The digest is the
// SHA-256 of one line for each file, sorted: its name and its SHA-256.
func KernelDigest(ctx context.Context, dir config.KernelDir) (banger.Digest, banger.Size, error) {
	var lines []string
	var total banger.Size
	for _, path := range kernelFiles(dir) {
		digest, size, err := FileDigest(ctx, path)
		if err != nil {
			return "", 0, err
		}
		lines = append(lines, fmt.Sprintf("%s %s\n", filepath.Base(path), digest))
		total += size
	}
	slices.Sort(lines)
	sum := sha256.New()
	for _, line := range lines {
		io.WriteString(sum, line)
	}
	return digestOf(sum), total, nil
}

// kernelFiles returns the files that a kernel set's digest covers. kernel.json is
// not one of them, since it holds the digest.
func kernelFiles(dir config.KernelDir) []string {
	return []string{dir.Vmlinux(), dir.BootModules(), dir.Modules()}
}

// walkData calls visit for each stretch of data in the file, with the length of
// the hole before it and the length of the data. The file's position is then where
// the data begins. A hole at the end comes with no data. walkData returns the
// file's size.
func walkData(ctx context.Context, file *os.File, visit func(hole, data int64) error) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		begin, end, err := nextData(file, at, size)
		if err != nil {
			return 0, err
		}
		if _, err := file.Seek(begin, io.SeekStart); err != nil {
			return 0, err
		}
		if err := visit(begin-at, end-begin); err != nil {
			return 0, err
		}
		at = end
	}
	return size, nil
}

// nextData returns the next stretch of data at or after at. On a file system that
// does not report holes, all the rest is data.
func nextData(file *os.File, at, size int64) (begin, end int64, err error) {
	begin, err = unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL):
		return at, size, nil
	case err != nil:
		return 0, 0, fmt.Errorf("find data: %w", err)
	}
	end, err = unix.Seek(int(file.Fd()), begin, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("find hole: %w", err)
	}
	return begin, min(end, size), nil
}

func hashZeros(ctx context.Context, sum hash.Hash, n int64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		step := min(n, chunk)
		sum.Write(zeros[:step])
		n -= step
	}
	return nil
}

// copyChunks copies all of a limited reader, or stops when ctx is cancelled. It
// returns an error if the reader ends early.
func copyChunks(ctx context.Context, to io.Writer, from *io.LimitedReader) error {
	for from.N > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(to, from, min(from.N, chunk)); err != nil {
			return err
		}
	}
	return nil
}
