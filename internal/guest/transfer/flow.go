package transfer

import (
	"context"
	"errors"
	"io"
)

// Flow is a copy: Source writes a stream that Sink reads. Each returns once it has
// nothing left to undo.
type Flow struct {
	Source func(io.Writer) error
	Sink   func(io.Reader) error
	Moved  func(bytes int) // called while the stream moves; may be nil
}

// Run copies, and returns why it failed: that of both ends' errors which is not a
// consequence of the other's. Cancelling ctx ends it; Sink undoes what it began. Run
// does not wait for a Source that blocks when the Sink has ended.
func (f Flow) Run(ctx context.Context) error {
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
	defer stop()
	sent := make(chan error, 1)
	go func() {
		err := f.Source(counted{w, f.Moved})
		sent <- err // first: the Sink may end because of it
		w.CloseWithError(err)
	}()
	err := f.Sink(r)
	r.CloseWithError(errSinkEnded)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case source := <-sent:
		if source != nil && !errors.Is(source, errSinkEnded) {
			return source
		}
	default:
	}
	return err
}

var errSinkEnded = errors.New("the destination takes no more")

type counted struct {
	io.Writer
	moved func(int)
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	if c.moved != nil {
		c.moved(n)
	}
	return n, err
}
