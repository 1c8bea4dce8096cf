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

// layers are the archives, lowest first. Each can be read twice.
type layers struct {
	ctx     context.Context
	from    []layer
	spooled []*os.File
}

type layer struct {
	r     io.ReadSeeker
	start int64
}

func openLayers(ctx context.Context, from []io.Reader, dir string) (*layers, error) {
	l := &layers{ctx: ctx}
	for _, r := range from {
		next, err := l.open(r, dir)
		if err != nil {
			l.Close()
			return nil, err
		}
		l.from = append(l.from, next)
	}
	return l, nil
}

func (l *layers) open(r io.Reader, dir string) (layer, error) {
	if s, ok := r.(io.ReadSeeker); ok {
		// A pipe is an *os.File, too, and cannot seek.
		if start, err := s.Seek(0, io.SeekCurrent); err == nil {
			return layer{s, start}, nil
		}
	}
	f, err := os.CreateTemp(dir, ".spool-*")
	if err != nil {
		return layer{}, err
	}
	l.spooled = append(l.spooled, f)
	if err := os.Remove(f.Name()); err != nil {
		return layer{}, err
	}
	n, err := io.Copy(f, io.LimitReader(reader{l.ctx, r}, maxData+1))
	if err != nil {
		return layer{}, fmt.Errorf("spool archive: %w", err)
	}
	if n > maxData {
		return layer{}, tooMuch("the archive holds more than %v", banger.Size(maxData))
	}
	return layer{f, 0}, nil
}

// Close closes the spool files, which frees their space.
func (l *layers) Close() {
	for _, f := range l.spooled {
		f.Close()
	}
}

// each calls do for every entry of every archive, in order.
func (l *layers) each(do func(at position, h *tar.Header, data io.Reader) error) error {
	for i, layer := range l.from {
		if _, err := layer.r.Seek(layer.start, io.SeekStart); err != nil {
			return fmt.Errorf("read archive again: %w", err)
		}
		t := tar.NewReader(bufio.NewReaderSize(reader{l.ctx, layer.r}, 1<<20))
		for entry := 0; ; entry++ {
			h, err := t.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return broken(err)
			}
			if err := do(position{i, entry}, h, t); err != nil {
				return err
			}
		}
	}
	return nil
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
