// Package compression reads compressed streams. It recognises how one is compressed by
// its first bytes. It does not know what is in a stream.
package compression

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"banger"
)

// Kind is how a stream is compressed. An empty one means that it is not.
type Kind string

// The kinds of compression.
const (
	None  Kind = ""
	gzips Kind = "gzip"
	zstds Kind = "zstd"
	xzs   Kind = "xz"
	bzips Kind = "bzip2"
)

// maxZstdWindow is the default limit of the zstd program.
const maxZstdWindow = 128 << 20

// bufferSize is how much is read at once.
const bufferSize = 1 << 20

var magics = []struct {
	magic string
	kind  Kind
}{{"\x1f\x8b", gzips}, {"\x28\xb5\x2f\xfd", zstds}, {"\xfd7zXZ\x00", xzs}, {"BZh", bzips}}

// longestMagic is how many bytes tell the kind.
const longestMagic = 6

func of(start []byte) Kind {
	for _, m := range magics {
		if bytes.HasPrefix(start, []byte(m.magic)) {
			return m.kind
		}
	}
	return None
}

// Of returns how a file is compressed.
func Of(file io.ReaderAt) (Kind, error) {
	start := make([]byte, longestMagic)
	n, err := file.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return None, err
	}
	return of(start[:n]), nil
}

// NewReader returns a reader of the plain stream, and a function that ends its use. It
// does not close r.
func NewReader(r io.Reader) (plain io.Reader, done func(), err error) {
	buffered := bufio.NewReaderSize(r, bufferSize)
	start, err := buffered.Peek(longestMagic)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	return of(start).reader(buffered)
}

func (k Kind) reader(buffered *bufio.Reader) (plain io.Reader, done func(), err error) {
	done = func() {}
	switch k {
	case gzips:
		plain, err = gzip.NewReader(buffered)
	case zstds:
		var decoder *zstd.Decoder
		if decoder, err = zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxZstdWindow)); err == nil {
			plain, done = decoder, decoder.Close
		}
	case xzs:
		plain, err = xz.NewReader(buffered)
	case bzips:
		plain = bzip2.NewReader(buffered)
	default:
		return buffered, done, nil
	}
	if err != nil {
		return nil, nil, k.damaged(err)
	}
	return unpacking{plain, k}, done, nil
}

// unpacking marks read errors as those of a damaged stream.
type unpacking struct {
	io.Reader
	kind Kind
}

func (u unpacking) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = u.kind.damaged(err)
	}
	return n, err
}

// damaged turns an error of a decompressor into an Invalid error, unless the stream
// itself could not be read.
func (k Kind) damaged(err error) error {
	if file, user := (*fs.PathError)(nil), (*banger.Error)(nil); errors.As(err, &file) || errors.As(err, &user) {
		return err
	}
	return &banger.Error{Kind: banger.Invalid, What: fmt.Sprintf("unpack %s", k), Why: err, Fix: "download or create the archive again: it is damaged or cut off"}
}
