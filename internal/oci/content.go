package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"banger"
	"banger/internal/compression"
)

// Content is the plain content of a layer. The first reading to the end verifies it.
type Content struct {
	diffID   banger.Digest
	open     func() (io.ReadCloser, error)
	verified bool
}

// NewContent returns the content of a layer. open opens it as it is stored.
func NewContent(l Layer, open func() (io.ReadCloser, error)) *Content {
	return &Content{diffID: l.DiffID, open: open}
}

// Open returns a reader of the plain content.
func (c *Content) Open() (io.ReadCloser, error) {
	stored, err := c.open()
	if err != nil {
		return nil, err
	}
	plain, done, err := compression.NewReader(stored)
	if err != nil {
		return nil, errors.Join(err, stored.Close())
	}
	opened := &content{of: c, Reader: plain, done: done, stored: stored}
	if !c.verified {
		opened.sum = sha256.New()
	}
	return opened, nil
}

type content struct {
	of *Content
	io.Reader
	done   func()
	stored io.Closer
	sum    hash.Hash // nil: not needed again
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.sum == nil {
		return n, err
	}
	c.sum.Write(p[:n])
	if err == io.EOF {
		if got := banger.Digest("sha256:" + hex.EncodeToString(c.sum.Sum(nil))); got != c.of.diffID {
			return n, banger.Invalidf(again, "the layer %s is damaged: its content is %s", short(c.of.diffID), short(got))
		}
		c.of.verified, c.sum = true, nil
	}
	return n, err
}

func (c *content) Close() error {
	c.done()
	return c.stored.Close()
}
