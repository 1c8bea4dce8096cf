// Package fetch downloads files whose SHA-256 is known beforehand. It continues
// interrupted downloads, shares one between processes that want the same file, and
// gives a file its name only after checking its content. It also extracts single
// members of archives. It does not know what the files are.
package fetch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"banger"
	"banger/internal/linux"
)

// File is what to download.
type File struct {
	URL    string
	Digest banger.Digest // of the file as the server sends it
	Max    banger.Size   // a larger file is an error
}

// Cache is a directory of downloaded files, each named by its digest. It can be deleted
// at any time, and several processes can use it at once.
type Cache struct {
	Dir    string
	Client *http.Client         // nil: http.DefaultClient
	Idle   time.Duration        // how long a server may send nothing; 0: one minute
	Tell   func(done, of int64) // called as bytes arrive; of is -1 if it is unknown; may be nil
}

// UnreachableError means that a server could not be reached, did not send the file, or
// broke the connection. The cache keeps what has arrived.
type UnreachableError struct {
	URL string
	Err error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("download %s: %v", e.URL, e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// DigestError means that the content has the wrong digest. The cache does not keep it.
type DigestError struct {
	Name      string // where it came from
	Got, Want banger.Digest
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("check %s: its digest is %s; it must be %s", e.Name, e.Got, e.Want)
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Path returns where the cache keeps the file with a digest.
func (c Cache) Path(digest banger.Digest) string {
	return filepath.Join(c.Dir, string(digest[len("sha256:"):]))
}

// Get returns the path of the file in the cache, and downloads it if it is missing. If
// another process downloads the same file, Get waits for it.
func (c Cache) Get(ctx context.Context, f File) (string, error) {
	return c.Fill(ctx, f.Digest, func(part *os.File) error { return c.download(ctx, f, part) }, f.URL)
}

// Fill returns the path of the file with a digest, and calls fill to write it if it is
// missing. The file that fill gets holds what a failed one has written before. name is
// the source of the content in errors.
func (c Cache) Fill(ctx context.Context, digest banger.Digest, fill func(part *os.File) error, name string) (string, error) {
	if !digestForm.MatchString(string(digest)) {
		return "", fmt.Errorf("%q is not a digest", digest)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return "", err
	}
	path := c.Path(digest)
	part, err := openLocked(ctx, path+".part")
	if err != nil {
		return "", fmt.Errorf("lock the download of %s: %w", name, err)
	}
	defer part.Close()
	if kept, err := holds(path, digest); err != nil || kept {
		return path, errors.Join(err, os.Remove(part.Name()))
	}
	if err := fill(part); err != nil {
		return "", err
	}
	got, err := digestOf(ctx, part)
	if err != nil {
		return "", err
	}
	if got != digest {
		return "", errors.Join(&DigestError{name, got, digest}, os.Remove(part.Name()))
	}
	// No sync: the digest is checked again before each use.
	if err := os.Rename(part.Name(), path); err != nil {
		return "", err
	}
	return path, nil
}

// holds reports whether the cache has a file. It removes one with the wrong content.
func holds(path string, digest banger.Digest) (bool, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	got, err := digestOf(context.Background(), file)
	if err != nil || got == digest {
		return err == nil, err
	}
	return false, os.Remove(path)
}

func digestOf(ctx context.Context, file *os.File) (banger.Digest, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, &contextReader{ctx, io.NewSectionReader(file, 0, 1<<62)}); err != nil {
		return "", fmt.Errorf("hash %s: %w", file.Name(), err)
	}
	return banger.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// openLocked opens and locks a file. The process that held the lock before may have
// renamed or removed the file; then openLocked opens the new one.
func openLocked(ctx context.Context, path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := linux.WaitFlock(ctx, file); err != nil {
			file.Close()
			return nil, err
		}
		ours, err := file.Stat()
		if err == nil {
			var named os.FileInfo
			if named, err = os.Stat(path); err == nil && os.SameFile(ours, named) {
				return file, nil
			}
		}
		file.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func (c Cache) idle() time.Duration { return cmp.Or(c.Idle, time.Minute) }
