// Package blob is the cache of what was downloaded: files named by the digest of their
// content, which several daemons share. A download that was interrupted continues, and
// one that others need as well is done once. The package does not know where content
// comes from.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger"
	"banger/internal/durable"
	"banger/internal/linux"
)

// Cache is the directory of the cache.
type Cache struct{ Dir string }

// partial is the end of the name of what is not complete.
const partial = ".part"

func (c Cache) path(d banger.Digest) string {
	return filepath.Join(c.Dir, strings.TrimPrefix(string(d), "sha256:"))
}

// Fetch writes the content from p.At() on. It calls p.Restart if it can only write the
// whole.
type Fetch func(ctx context.Context, p *Part) error

// maxFailures is how often in a row a download may end without a byte more.
const maxFailures = 3

// Has reports whether a blob is complete.
func (c Cache) Has(d banger.Digest) bool {
	_, err := os.Stat(c.path(d))
	return err == nil
}

// Get returns a blob, which it fetches if it is not there. moved is told how many bytes
// of it have come. If Get fails, the next one continues.
func (c Cache) Get(ctx context.Context, d banger.Digest, size int64, fetch Fetch, moved func(bytes int64)) (*os.File, error) {
	if file, err := os.Open(c.path(d)); err == nil {
		moved(size)
		return file, nil
	}
	if err := durable.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	file, err := openLocked(ctx, c.path(d)+partial)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if done, err := os.Open(c.path(d)); err == nil { // by who had the lock
		moved(size)
		return done, os.Remove(file.Name())
	}
	p := &Part{file: file, size: size, moved: moved}
	if err := p.resume(ctx); err != nil {
		return nil, err
	}
	if err := p.fill(ctx, d, fetch); err != nil {
		return nil, err
	}
	if err := durable.Sync(file.Name()); err != nil {
		return nil, err
	}
	if err := durable.Rename(file.Name(), c.path(d)); err != nil {
		return nil, err
	}
	return os.Open(c.path(d))
}

// Drop removes a blob, for one whose content turned out to be damaged.
func (c Cache) Drop(d banger.Digest) error {
	if err := os.Remove(c.path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Entry is a file of the cache.
type Entry struct {
	Path string
	Size banger.Size // on the host
}

// Remove removes an entry, unless somebody downloads it: that is not an error.
func (e Entry) Remove() (removed bool, err error) {
	file, err := os.OpenFile(e.Path, os.O_RDWR, 0)
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer file.Close()
	if err := linux.TryLock(file); errors.Is(err, linux.ErrLocked) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	err = os.Remove(e.Path)
	return err == nil, ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// openLocked opens and locks a file. Who had the lock before may have renamed or removed
// it: then openLocked opens the new one.
func openLocked(ctx context.Context, path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = linux.WaitLock(ctx, file)
		if err == nil {
			var ours, named os.FileInfo
			if ours, err = file.Stat(); err == nil {
				named, err = os.Stat(path)
			}
			if err == nil && os.SameFile(ours, named) {
				return file, nil
			}
			err = ignoreMissing(err)
		}
		file.Close()
		if err != nil {
			return nil, err
		}
	}
}

// Part is a blob that is not complete.
type Part struct {
	file     *os.File
	sum      hash.Hash
	at, size int64
	moved    func(int64)
}

// At returns how much there is.
func (p *Part) At() int64 { return p.at }

// Left returns how much is missing.
func (p *Part) Left() int64 { return p.size - p.at }

// resume counts what is there from before.
func (p *Part) resume(ctx context.Context) error {
	p.sum = sha256.New()
	n, err := io.Copy(p.sum, &reader{ctx, p.file})
	if err != nil {
		return err
	}
	if n > p.size {
		return p.Restart()
	}
	p.at = n
	p.moved(n)
	return nil
}

// Restart begins anew.
func (p *Part) Restart() error {
	p.moved(-p.at)
	p.at, p.sum = 0, sha256.New()
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return p.file.Truncate(0)
}

// Write adds to the blob. What is too much is an error.
func (p *Part) Write(data []byte) (int, error) {
	if int64(len(data)) > p.Left() {
		return 0, errTooMuch
	}
	n, err := p.file.Write(data)
	p.sum.Write(data[:n])
	p.at += int64(n)
	p.moved(int64(n))
	return n, err
}

var errTooMuch = &banger.Error{Kind: banger.Invalid, Why: errors.New("the download is longer than it should be"), Fix: again}

const again = "run the command again; if it fails again, the registry's copy is damaged"

// fill fetches until the blob is complete and what its digest says.
func (p *Part) fill(ctx context.Context, d banger.Digest, fetch Fetch) error {
	fresh := p.at == 0
	for {
		if err := p.fetch(ctx, fetch); err != nil {
			return err
		}
		got := "sha256:" + hex.EncodeToString(p.sum.Sum(nil))
		if got == string(d) {
			return nil
		}
		if err := p.Restart(); err != nil {
			return err
		}
		if fresh {
			return &banger.Error{Kind: banger.Invalid, Why: fmt.Errorf("the download %.19s is damaged: its content is %.19s", d, got), Fix: again}
		}
		fresh = true // a power cut may have damaged what was there
	}
}

// fetch continues a download that is cut off, as long as more comes.
func (p *Part) fetch(ctx context.Context, fetch Fetch) error {
	for failures := 0; p.Left() > 0; {
		at := p.at
		err := fetch(ctx, p)
		if p.Left() == 0 {
			return nil
		}
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		if p.at > at {
			failures = 0
		} else {
			failures++
		}
		if final := (*banger.Error)(nil); failures == maxFailures || ctx.Err() != nil || errors.As(err, &final) || isDisk(err) {
			return err
		}
	}
	return nil
}

func isDisk(err error) bool {
	file := (*fs.PathError)(nil)
	return errors.As(err, &file)
}

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// Entries returns the files of the cache, the complete and the incomplete.
func (c Cache) Entries() ([]Entry, error) {
	files, err := os.ReadDir(c.Dir)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var all []Entry
	for _, file := range files {
		info, err := file.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		all = append(all, Entry{filepath.Join(c.Dir, file.Name()), banger.Size(info.Size())})
	}
	return all, nil
}
