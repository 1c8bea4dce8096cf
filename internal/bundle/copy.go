package bundle

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/durable"
)

// share creates dst as a read-only file with src's content, in the cheapest way
// that the file system offers: shared blocks, else a hard link, else a copy that
// keeps holes.
func share(ctx context.Context, src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", src)
	}
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cloned := unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil
	if !cloned && ours(info) && replaceByLink(in, dst) == nil {
		return durable.Sync(dst)
	}
	if !cloned {
		if err := copySparse(ctx, in, out); err != nil {
			return fmt.Errorf("copy %s: %w", src, err)
		}
	}
	if err := out.Chmod(info.Mode().Perm() &^ 0o222); err != nil {
		return err
	}
	return durable.Sync(out.Name())
}

// Copy makes dst a read-only copy of the file src, in full or not at all. It is for file
// systems that cannot share: elsewhere a link is better.
func Copy(ctx context.Context, src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	return durable.Write(dst, 0o444, func(out *os.File) error {
		if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
			return nil
		}
		return copySparse(ctx, in, out)
	})
}

// ours reports whether a hard link to the file is safe: nobody may write to it, and
// only this user can change that.
func ours(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().Perm()&0o222 == 0 && int(stat.Uid) == os.Geteuid()
}

// replaceByLink replaces dst by a hard link to the open file. It links the
// descriptor, since a path could be a symbolic link.
func replaceByLink(in *os.File, dst string) error {
	linked := dst + ".link"
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", in.Fd()), unix.AT_FDCWD, linked, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	if err := os.Rename(linked, dst); err != nil {
		os.Remove(linked)
		return err
	}
	return nil
}

func copySparse(ctx context.Context, in, out *os.File) error {
	size, err := walkData(ctx, in, func(hole, data int64) error {
		if _, err := out.Seek(hole, io.SeekCurrent); err != nil {
			return err
		}
		return copyChunks(ctx, out, &io.LimitedReader{R: in, N: data})
	})
	if err != nil {
		return err
	}
	return out.Truncate(size)
}
