package stack

import (
	"errors"
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A pipe moves the bytes between a guest's connection and one to the outside. Each byte
// is copied once in either direction: from the endpoint's segments to the socket, or from
// the socket to new segments. A pipe that waits holds no buffer. It belongs to one
// goroutine; others may only reset it.
type pipe struct {
	queue waiter.Queue
	entry waiter.Entry
	bell  bell // rings for the endpoint, the socket and a reset
	ep    tcpip.Endpoint
	out   *socket
	size  int // of the endpoint's buffers
	small int // see crowded

	outward, inward error // why a direction has stopped
	broken          atomic.Bool
}

func newPipe(out *socket, size int) *pipe {
	p := &pipe{out: out, bell: out.bell, size: size, outward: errEmpty, inward: unix.EAGAIN}
	p.entry.Init(p, waiter.ReadableEvents|waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	return p
}

// Why a direction has stopped for now. EAGAIN is that the socket has nothing, or takes
// nothing, and io.EOF is for good.
var (
	errEmpty = errors.New("the guest has sent nothing")
	errFull  = errors.New("the guest takes nothing")
	errMore  = errors.New("there is more, after the other direction")
	errReset = errors.New("connection reset")
)

// NotifyEvent implements waiter.EventListener.
func (p *pipe) NotifyEvent(waiter.EventMask) { p.bell.ring() }

// run moves bytes until both sides are done, one resets the connection, or reset is called.
func (p *pipe) run() {
	p.queue.EventRegister(&p.entry)
	defer p.queue.EventUnregister(&p.entry)
	for {
		ended, err := p.move()
		if err != nil {
			p.ep.Abort()
			p.out.reset() // so that run's caller resets it, too
			return
		}
		if ended {
			p.ep.Close()
			return
		}
		if p.outward != errMore && p.inward != errMore {
			<-p.bell
		}
	}
}

// reset ends the connection on both sides, and tells them that it was not in order.
func (p *pipe) reset() {
	p.broken.Store(true)
	p.bell.ring()
}

// move moves what can be moved now, and reports whether the connection has ended in order
// on both sides.
func (p *pipe) move() (ended bool, err error) {
	if p.broken.Load() {
		return false, errReset
	}
	happened := p.out.happened.Swap(0)
	if p.outward != io.EOF && (p.outward != unix.EAGAIN || happened&(unix.EPOLLOUT|broke) != 0) {
		if err := p.moveOut(); err != nil {
			return false, err
		}
	}
	switch {
	case p.inward == io.EOF:
		// Reading would only say again that the end was reached: see whether the outside
		// has reset the other half.
		if happened&broke != 0 {
			err = p.out.failure()
		}
	case p.inward != unix.EAGAIN || happened&(unix.EPOLLIN|unix.EPOLLRDHUP|broke) != 0:
		err = p.moveIn()
	}
	if err != nil {
		return false, err
	}
	return p.ended()
}

// broke are the events of a socket that may have an error.
const broke = unix.EPOLLERR | unix.EPOLLHUP

// ended reports whether the guest has acknowledged everything: of a guest that does not,
// connections would pile up that nobody counts.
func (p *pipe) ended() (bool, error) {
	switch tcp.EndpointState(p.ep.State()) {
	case tcp.StateClose, tcp.StateTimeWait:
		return p.outward == io.EOF, nil
	case tcp.StateError:
		return false, errReset
	}
	return false, nil
}

// moveOut moves what the guest sends.
func (p *pipe) moveOut() error {
	switch p.outward = p.writeOut(); p.outward {
	case errEmpty, errMore:
		return nil
	case unix.EAGAIN:
		return p.out.full()
	case io.EOF:
		ended, err := p.ended()
		if !ended && err == nil { // else closing it says the same
			p.out.closeWrite()
		}
		return err
	}
	return p.outward
}

// mostTurns is how often one direction may move something before it is the other's turn.
const mostTurns = 16

// writeOut writes segments of the guest's to the socket until one of them has enough.
func (p *pipe) writeOut() error {
	for range mostTurns {
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
		n, err := writev(p.out.fd, g.parts, g.size)
		if n > 0 {
			// Only now the segments may go and the guest may send more.
			p.ep.Read(&tcpip.LimitedWriter{W: io.Discard, N: int64(n)}, tcpip.ReadOptions{})
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
	return errMore
}

// gather collects slices without copying them.
type gather struct {
	parts []unix.Iovec
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
	if len(b) > 0 {
		g.parts = append(g.parts, unix.Iovec{Base: &b[0], Len: uint64(len(b))})
		g.size += len(b)
	}
	return len(b), nil
}

// moveIn moves what the outside sends.
func (p *pipe) moveIn() error {
	switch p.inward = p.readIn(); p.inward {
	case unix.EAGAIN, errFull, errMore:
		return nil
	case io.EOF:
		p.ep.Shutdown(tcpip.ShutdownWrite)
		return nil
	}
	return p.inward
}

// readIn makes segments of what the socket has until one of them has enough.
func (p *pipe) readIn() error {
	for range mostTurns {
		n, err := unread(p.out.fd)
		if err != nil {
			return err
		}
		if n == 0 {
			if err := peek(p.out.fd); err != nil {
				return err
			}
			continue // it has come since
		}
		if n < smallPiece {
			if p.small++; p.small > p.size/smallPiece && p.crowded() {
				return errFull
			}
		}
		_, failed := p.ep.Write(&source{fd: p.out.fd, n: min(n, mostGather)}, tcpip.WriteOptions{})
		switch failed.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return errFull
		default:
			return errReset
		}
	}
	return errMore
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
	switch n, err := receive(fd, b[:], unix.MSG_PEEK); {
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
		n, err := read(s.fd, b)
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
