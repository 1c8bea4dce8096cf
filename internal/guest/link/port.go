package link

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/linux"
)

var errStale = errors.New("the connection was replaced")

// Port is the guest's end of a serial port.
type Port struct {
	file *os.File
	raw  syscall.RawConn

	// mu makes one step of a write and the check that its connection is current:
	// else the old connection could write bytes after the new one began.
	mu  sync.Mutex
	gen uint64
}

// NewPort returns a Port that owns file, whose descriptor must be in non-blocking mode
// and be pollable.
func NewPort(file *os.File) (*Port, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("port %s: %w", file.Name(), err)
	}
	return &Port{file: file, raw: raw}, nil
}

// Close ends the port, and with it Serve.
func (p *Port) Close() error { return p.file.Close() }

// Read reads what a host sent. A port without a host is at its end, but Read does not
// trust that: the kernel learns that hosts come and go later than it gets their bytes,
// so the end may be an earlier host's. It waits for the poller's next event instead.
func (p *Port) Read(b []byte) (n int, err error) {
	waited := p.raw.Read(func(fd uintptr) bool {
		n, err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), b) })
		return err != unix.EAGAIN && (err != nil || n > 0)
	})
	if err = errors.Join(waited, err); err != nil {
		return 0, fmt.Errorf("read port: %w", err)
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

// next begins a generation. Writers of older ones fail from now on, even those that
// wait for the host to read. settle must follow once they are gone.
func (p *Port) next() uint64 {
	p.mu.Lock()
	p.gen++
	gen := p.gen
	p.mu.Unlock()
	linux.InterruptWrite(p.file)
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
