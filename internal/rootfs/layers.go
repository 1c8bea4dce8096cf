package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"banger"
)

// Layer is an archive that can be read more than once.
type Layer interface {
	// Open returns a reader of the whole archive. Flatten reads it to its end, and not
	// only the archive's, before it opens it again.
	Open() (io.ReadCloser, error)
}

// Rewound returns an archive that begins where r is now.
func Rewound(r io.ReadSeeker) (Layer, error) {
	start, err := r.Seek(0, io.SeekCurrent)
	return rewound{r, start}, err
}

type rewound struct {
	r     io.ReadSeeker
	start int64
}

func (l rewound) Open() (io.ReadCloser, error) {
	if _, err := l.r.Seek(l.start, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read archive again: %w", err)
	}
	return io.NopCloser(l.r), nil
}

// reopened returns an archive that r yields perhaps only once, and a function that frees
// the space that it takes.
func reopened(ctx context.Context, r io.Reader, dir string) (Layer, func() error, error) {
	if s, ok := r.(io.ReadSeeker); ok {
		// A pipe is an *os.File, too, and cannot seek.
		if l, err := Rewound(s); err == nil {
			return l, func() error { return nil }, nil
		}
	}
	f, err := Spool(ctx, r, dir)
	if err != nil {
		return nil, nil, err
	}
	return rewound{f, 0}, f.Close, nil
}

// Spool copies an archive into a file without a name on the file system of dir.
func Spool(ctx context.Context, r io.Reader, dir string) (_ *os.File, err error) {
	f, err := os.CreateTemp(dir, ".spool-*")
	if err != nil {
		return nil, err
	}
	n := int64(0)
	if err = os.Remove(f.Name()); err == nil {
		n, err = io.Copy(f, io.LimitReader(reader{ctx, r}, maxStream+1))
	}
	if err == nil && n > maxStream {
		err = tooMuch("the archive holds more than %v", banger.Size(maxStream))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("spool archive: %w", err)
	}
	return f, nil
}

// layers are the archives, lowest first.
type layers struct {
	ctx  context.Context
	from []Layer
}

// each calls do for every entry of every archive, in order.
func (l *layers) each(do func(at position, h *tar.Header, data io.Reader) error) error {
	left := maxStream
	for i, layer := range l.from {
		plain, err := layer.Open()
		if err != nil {
			return err
		}
		stream := &bounded{r: reader{l.ctx, plain}, left: &left}
		err = errors.Join(eachEntry(stream, i, do), plain.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

func eachEntry(stream io.Reader, layer int, do func(at position, h *tar.Header, data io.Reader) error) error {
	buffered := bufio.NewReaderSize(stream, 1<<20)
	t := tar.NewReader(buffered)
	for entry := 0; ; entry++ {
		h, err := t.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, buffered) // what checks the stream waits for its end
			return err
		}
		if err != nil {
			return broken(err)
		}
		if err := do(position{layer, entry}, h, t); err != nil {
			return err
		}
	}
}

// bounded fails when the streams together are longer than what is left.
type bounded struct {
	r    io.Reader
	left *int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if *b.left -= int64(n); *b.left < 0 {
		return n, tooMuch("the archive holds more than %v", banger.Size(maxStream))
	}
	return n, err
}

// index adds every entry of every layer to x.
func (l *layers) index(x *index) error {
	current := 0
	err := l.each(func(at position, h *tar.Header, data io.Reader) error {
		if at.layer != current {
			if err := x.endLayer(); err != nil {
				return err
			}
			current = at.layer
		}
		if err := x.add(at, h); err != nil {
			return err
		}
		return x.look(at, h, data)
	})
	if err != nil {
		return err
	}
	return x.endLayer()
}

// emit writes the plan as one archive: directories first, then files in the order in
// which they are read, each name once.
func (l *layers) emit(p *plan, w io.Writer) error {
	t := tar.NewWriter(w)
	for _, n := range p.made {
		if err := write1(t, n, n.header, nil); err != nil {
			return err
		}
	}
	err := l.each(func(at position, h *tar.Header, data io.Reader) error {
		n := p.files[at]
		if n == nil {
			return nil
		}
		h, err := clean(h)
		if err != nil {
			return err
		}
		return write1(t, n, h, data)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

// write1 writes an inode under its first name, and its other names as hard links.
func write1(t *tar.Writer, n *inode, h *tar.Header, data io.Reader) error {
	named := *h
	named.Name = n.names[0]
	if err := t.WriteHeader(&named); err != nil {
		return fmt.Errorf("write entry %q: %w", named.Name, err)
	}
	if h.Typeflag == tar.TypeReg && h.Size > 0 {
		if _, err := io.Copy(t, data); err != nil {
			return broken(err)
		}
	}
	for _, name := range n.names[1:] {
		link := tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: n.names[0], Format: tar.FormatPAX}
		if err := t.WriteHeader(&link); err != nil {
			return fmt.Errorf("write link %q: %w", name, err)
		}
	}
	return nil
}

// broken returns an Invalid error if a read error is the archive's fault, else the
// error itself.
func broken(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return &banger.Error{Kind: banger.Invalid, Why: fmt.Errorf("not a tar archive, or cut off: %w", err), Fix: "download or create the archive again"}
	}
	return fmt.Errorf("read archive: %w", err)
}

// reader fails once its context is done.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
