package stack

import (
	"errors"
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A pipe moves the bytes between a guest's connection and one to the outside. Each byte
// is copied once in either direction: from the endpoint's segments to the socket, or from
// the socket to new segments. A pipe that waits holds no buffer.
type pipe struct {
	queue waiter.Queue
	ep    tcpip.Endpoint
	out   *socket
	size  int // of the endpoint's buffers
	small int // see crowded

	done chan struct{} // closed when the pipe is broken

	mu     sync.Mutex // held while segments of the endpoint are written from
	broken bool
}

func newPipe(out *socket, size int) *pipe {
	return &pipe{out: out, size: size, done: make(chan struct{})}
}

// Why one direction stops for now.
var (
	errEmpty = errors.New("the guest has sent nothing")
	errFull  = errors.New("the guest takes nothing")
	errReset = errors.New("connection reset")
)

// run moves bytes until both sides are done, one resets the connection, or reset is called.
func (p *pipe) run(w *workers) {
	inward := make(chan struct{})
	w.run(func() {
		defer close(inward)
		if p.moveIn() != nil {
			p.reset()
		}
	})
	if p.moveOut() != nil {
		p.reset()
	}
	p.out.Close() // ends moveIn
	<-inward
	p.ep.Close()
}

// reset ends the connection on both sides, and tells them that it was not in order.
func (p *pipe) reset() {
	if p.abort() {
		p.out.Close() // without mu: it waits for writeOut
	}
}

// abort ends the guest's side, and reports whether it is the first to do so.
func (p *pipe) abort() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken {
		return false
	}
	p.broken = true
	close(p.done)
	p.ep.Abort()
	p.out.reset()
	return true
}

// moveOut moves what the guest sends, and returns nil when the connection has ended in
// order on both sides.
func (p *pipe) moveOut() error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	p.queue.EventRegister(&entry)
	defer p.queue.EventUnregister(&entry)
	for {
		var stop error
		err := p.out.raw.Write(func(fd uintptr) bool {
			stop = p.writeOut(int(fd))
			return stop != unix.EAGAIN
		})
		switch {
		case err != nil:
			return err
		case stop == io.EOF:
			p.out.closeWrite()
			return p.awaitEnd(ready)
		case stop != errEmpty:
			return stop
		}
		select {
		case <-ready:
		case <-p.done:
			return errReset
		}
	}
}

// awaitEnd waits until the guest has acknowledged everything, so that a guest that does
// not cannot make connections pile up that nobody counts.
func (p *pipe) awaitEnd(ready <-chan struct{}) error {
	for {
		switch tcp.EndpointState(p.ep.State()) {
		case tcp.StateClose, tcp.StateTimeWait:
			return nil
		case tcp.StateError:
			return errReset
		}
		select {
		case <-ready:
		case <-p.done:
			return errReset
		}
	}
}

// writeOut writes segments of the guest's to the socket until one of them has enough.
func (p *pipe) writeOut(fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.broken {
		var g gather
		_, failed := p.ep.Read(&g, tcpip.ReadOptions{Peek: true})
		switch failed.(type) {
		case nil, *tcpip.ErrBadBuffer:
		case *tcpip.ErrWouldBlock:
			return errEmpty
		case *tcpip.ErrClosedForReceive:
			return io.EOF
		default:
			return errReset
		}
		n, err := unix.Writev(fd, g.parts)
		if n > 0 {
			// Only now the segments may go and the guest may send more.
			p.ep.Read(&tcpip.LimitedWriter{W: io.Discard, N: int64(n)}, tcpip.ReadOptions{})
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
	return errReset
}

// gather collects slices without copying them.
type gather struct {
	parts [][]byte
	size  int
}

const (
	mostParts  = 64
	mostGather = 512 << 10
)

var errEnough = errors.New("enough is gathered")

// Write implements io.Writer.
func (g *gather) Write(b []byte) (int, error) {
	if len(g.parts) >= mostParts || g.size >= mostGather {
		return 0, errEnough
	}
	g.parts = append(g.parts, b)
	g.size += len(b)
	return len(b), nil
}

// moveIn moves what the outside sends, and returns nil when that has ended in order.
func (p *pipe) moveIn() error {
	entry, room := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	p.queue.EventRegister(&entry)
	defer p.queue.EventUnregister(&entry)
	for {
		var stop error
		err := p.out.raw.Read(func(fd uintptr) bool {
			stop = p.readIn(int(fd))
			return stop != unix.EAGAIN
		})
		switch {
		case err != nil:
			return err
		case stop == io.EOF:
			p.ep.Shutdown(tcpip.ShutdownWrite)
			return p.awaitReset()
		case stop != errFull:
			return stop
		}
		select {
		case <-room:
		case <-p.done:
			return errReset
		}
	}
}

// awaitReset watches a connection that the outside has half closed: it may still reset
// the other half. Reading would only say again that the end was reached.
func (p *pipe) awaitReset() error {
	var failed int
	err := p.out.raw.Read(func(fd uintptr) bool {
		failed, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return failed != 0
	})
	if err != nil {
		return nil // run has closed it, or reset
	}
	return syscall.Errno(failed)
}

// readIn makes segments of what the socket has until one of them has enough.
func (p *pipe) readIn(fd int) error {
	for {
		n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		if err != nil {
			return err
		}
		if n == 0 {
			if err := peek(fd); err != nil {
				return err
			}
			continue // it has come since
		}
		if n < smallPiece {
			if p.small++; p.small > p.size/smallPiece && p.crowded() {
				return errFull
			}
		}
		_, failed := p.ep.Write(&source{fd: fd, n: min(n, mostGather)}, tcpip.WriteOptions{})
		switch failed.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return errFull
		default:
			return errReset
		}
	}
}

// smallPiece is how much memory each piece takes, however short it is.
const smallPiece = 1 << 10

// crowded reports whether the guest has yet to take some of many small pieces, of which the
// endpoint counts only the bytes. It makes the endpoint tell of room when all are taken, and
// only then.
func (p *pipe) crowded() bool {
	o := p.ep.SocketOptions()
	o.SetSendBufferSize(2, false)
	if p.ep.Readiness(waiter.WritableEvents) == 0 {
		return true
	}
	o.SetSendBufferSize(int64(p.size), false)
	p.small = 0
	return false
}

// peek tells apart why a socket has no bytes: EAGAIN, EOF or an error.
func peek(fd int) error {
	var b [1]byte
	switch n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); {
	case err == unix.EINTR:
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	return nil
}

// source lets an endpoint read the bytes that it has room for from a socket.
type source struct{ fd, n int }

// Len implements tcpip.Payloader.
func (s *source) Len() int { return s.n }

// Read implements io.Reader. The bytes are there: it does not wait.
func (s *source) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, err := unix.Read(s.fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.ErrUnexpectedEOF
		default:
			return n, nil
		}
	}
}
