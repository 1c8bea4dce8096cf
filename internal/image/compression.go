package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"banger"
)

// compression is how an archive is compressed, as its first bytes tell.
type compression string

const (
	uncompressed compression = ""
	gzipped      compression = "gzip"
	zstdPacked   compression = "zstd"
	xzPacked     compression = "xz"
	bzipped      compression = "bzip2"
)

// maxZstdWindow is the default limit of the zstd program.
const maxZstdWindow = 128 << 20

var magics = []struct {
	magic string
	kind  compression
}{{"\x1f\x8b", gzipped}, {"\x28\xb5\x2f\xfd", zstdPacked}, {"\xfd7zXZ\x00", xzPacked}, {"BZh", bzipped}}

// compressionOf returns the compression of a file and leaves the file's position
// alone.
func compressionOf(file *os.File) (compression, error) {
	start := make([]byte, 6)
	n, err := file.ReadAt(start, 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	for _, m := range magics {
		if bytes.HasPrefix(start[:n], []byte(m.magic)) {
			return m.kind, nil
		}
	}
	return uncompressed, nil
}

// open returns a reader of the plain archive and a function that ends its use. It
// returns an uncompressed file itself, which can be read twice without a copy. The
// caller closes the file.
func (c compression) open(file *os.File) (io.Reader, func(), error) {
	buffered := bufio.NewReaderSize(file, 1<<20)
	var plain io.Reader
	var err error
	done := func() {}
	switch c {
	case gzipped:
		plain, err = gzip.NewReader(buffered)
	case zstdPacked:
		var decoder *zstd.Decoder
		if decoder, err = zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxZstdWindow)); err == nil {
			plain, done = decoder, decoder.Close
		}
	case xzPacked:
		plain, err = xz.NewReader(buffered)
	case bzipped:
		plain = bzip2.NewReader(buffered)
	default:
		return file, done, nil
	}
	if err != nil {
		return nil, nil, c.damaged(err)
	}
	return unpacking{plain, c}, done, nil
}

// unpacking marks read errors as those of a damaged archive.
type unpacking struct {
	io.Reader
	kind compression
}

func (u unpacking) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = u.kind.damaged(err)
	}
	return n, err
}

// damaged turns an error of a decompressor into an Invalid error, unless the file
// itself could not be read.
func (c compression) damaged(err error) error {
	if file := (*fs.PathError)(nil); errors.As(err, &file) {
		return err
	}
	return &banger.Error{Kind: banger.Invalid, What: fmt.Sprintf("unpack %s", c), Why: err, Fix: "download or create the archive again: it is damaged or cut off"}
}
