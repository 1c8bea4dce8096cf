package compression

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"banger"
)

func packed(t *testing.T, plain string) map[Kind]string {
	t.Helper()
	all := map[Kind]string{None: plain}
	for kind, open := range map[Kind]func(io.Writer) (io.WriteCloser, error){
		gzips: func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		xzs:   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
		zstds: func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	} {
		var buf bytes.Buffer
		w, err := open(&buf)
		if err == nil {
			_, err = io.WriteString(w, plain)
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		all[kind] = buf.String()
	}
	// There is no writer of bzip2: this is "hello\n".
	all[bzips] = "\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\xc1\xc0\x80\xe2\x00\x00\x01\x41\x00\x00\x10\x02\x44\xa0\x00\x30\xcd\x00\xc3\x46\x29\x97\x17\x72\x45\x38\x50\x90\xc1\xc0\x80\xe2"
	return all
}

func TestNewReader(t *testing.T) {
	for kind, data := range packed(t, "hello\n") {
		if got, err := Of(strings.NewReader(data)); got != kind || err != nil {
			t.Errorf("%q is %q, %v", kind, got, err)
		}
		plain, done, err := NewReader(iotest.OneByteReader(strings.NewReader(data)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(plain)
		done()
		if err != nil || string(text) != "hello\n" {
			t.Errorf("%q: read %q, %v", kind, text, err)
		}
	}
}

// TestDamagedStreams: the stream's fault is Invalid; an error of the file stays what it is.
func TestDamagedStreams(t *testing.T) {
	for kind, data := range packed(t, strings.Repeat("hello\n", 10000)) {
		if kind == None {
			continue
		}
		read := func(r io.Reader) error {
			plain, done, err := NewReader(r)
			if err != nil {
				return err
			}
			defer done()
			_, err = io.Copy(io.Discard, plain)
			return err
		}
		cut := data[:len(data)-len(data)/3]
		if err := read(strings.NewReader(cut)); banger.KindOf(err) != banger.Invalid {
			t.Errorf("%q, cut: %v", kind, err)
		}
		broken := &fs.PathError{Op: "read", Path: "x", Err: errors.New("I/O error")}
		if err := read(io.MultiReader(strings.NewReader(cut), iotest.ErrReader(broken))); !errors.Is(err, broken) || banger.KindOf(err) != banger.Unknown {
			t.Errorf("%q, unreadable: %v", kind, err)
		}
	}
}
