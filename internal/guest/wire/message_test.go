package wire

import (
	"bufio"
	"io"
	"testing"
)

// endless never ends a line, and counts the bytes read from it.
type endless struct{ taken int }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	e.taken += len(b)
	return len(b), nil
}

func TestALineWithoutAnEndIsNotKept(t *testing.T) {
	for _, size := range []int{16, 4096, MaxLine} {
		var e endless
		if _, err := ReadMessage(bufio.NewReaderSize(&e, size)); err == nil || err == io.EOF {
			t.Errorf("buffer of %d: %v", size, err)
		}
		if e.taken > MaxLine+size {
			t.Errorf("buffer of %d: %d bytes were read", size, e.taken)
		}
	}
}
