package link

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var (
	errHangup = errors.New("the host hung up")
	errStale  = errors.New("the connection was replaced")
)

// Port is the guest's end of a serial port.
type Port struct {
	file *os.File
	raw  syscall.RawConn
	hung bool // the reader has been told

	// A write and the check that its connection is still the current one are
	// one step: else a writer of the old connection could slip bytes in after
	// the new one began.
	mu  sync.Mutex
	gen uint64
}

// NewPort makes a Port of a file whose descriptor is in non-blocking mode and
// can be polled. The Port owns the file.
func NewPort(file *os.File) (*Port, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("port %s: %w", file.Name(), err)
	}
	return &Port{file: file, raw: raw, hung: true}, nil
}

// Close ends the port, and with it Serve.
func (p *Port) Close() error { return p.file.Close() }

// Read reads what the host sent. It reports a hang-up once, then waits for the
// host to come back: a port without a host is always at its end, so it is the
// next edge of the poller that counts, not the state.
func (p *Port) Read(b []byte) (n int, err error) {
	waited := p.raw.Read(func(fd uintptr) bool {
		n, err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), b) })
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil:
			return true
		case n == 0 && p.hung:
			return false
		}
		p.hung = n == 0
		return true
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, fmt.Errorf("read port: %w", err)
	case n == 0:
		return 0, errHangup
	}
	return n, nil
}

// write writes all of b, unless generation gen is over.
func (p *Port) write(gen uint64, b []byte) error {
	for len(b) > 0 {
		var n int
		var err error
		waited := p.raw.Write(func(fd uintptr) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.gen != gen {
				err = errStale
				return true
			}
			n, err = ignoringEINTR(func() (int, error) { return unix.Write(int(fd), b) })
			return err != unix.EAGAIN
		})
		if errors.Is(waited, os.ErrDeadlineExceeded) {
			return errStale
		}
		if err := errors.Join(waited, err); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// next begins a generation. Writers of the older ones fail from here on, also
// those that wait for the host to read; settle must follow once they are gone.
func (p *Port) next() uint64 {
	p.mu.Lock()
	p.gen++
	gen := p.gen
	p.mu.Unlock()
	p.file.SetWriteDeadline(time.Unix(1, 0))
	return gen
}

func (p *Port) settle() { p.file.SetWriteDeadline(time.Time{}) }

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
