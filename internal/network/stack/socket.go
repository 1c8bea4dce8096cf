package stack

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sockets are the connections to the outside. One goroutine waits for all of them, so that
// each needs one of its own, and neither package net nor package os, whose sockets take
// several times as long to make as the system calls.
type sockets struct {
	epoll   *os.File
	fd      int // of epoll
	waiting sync.WaitGroup

	mu  sync.Mutex
	all map[int32]*socket
}

func openSockets() (*sockets, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	// Only so Go's poller waits for it, as for any file that can be waited for.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make an epoll instance non-blocking: %w", err)
	}
	s := &sockets{epoll: os.NewFile(uintptr(fd), "outside"), fd: fd, all: map[int32]*socket{}}
	raw, err := s.epoll.SyscallConn()
	if err != nil {
		s.epoll.Close()
		return nil, err
	}
	s.waiting.Go(func() { s.wait(raw) })
	return s, nil
}

// close ends the waiting. Every socket is closed by then.
func (s *sockets) close() {
	s.epoll.Close()
	s.waiting.Wait()
}

// wait tells sockets what has happened to them, until close.
func (s *sockets) wait(raw syscall.RawConn) {
	var events [64]unix.EpollEvent
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, err := epollWait(int(fd), events[:])
			if err == unix.EINTR {
				continue
			}
			s.tell(events[:max(n, 0)])
			if n < len(events) {
				return false
			}
		}
	})
}

func (s *sockets) tell(events []unix.EpollEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		// A number may be another socket's by now, which then looks in vain.
		if socket := s.all[e.Fd]; socket != nil {
			socket.happened.Or(e.Events)
			socket.bell.ring()
		}
	}
}

// bell is what a goroutine waits for that has several things to look after. It rings once
// for all that has happened meanwhile.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// socket is a connection to the outside. It belongs to one goroutine.
type socket struct {
	fd       int
	sockets  *sockets
	bell     bell
	happened atomic.Uint32 // what epoll has told and nobody has looked at
	watched  uint32        // what epoll is to tell
}

var errLate = errors.New("the connection does not come about in time")

// connect connects a new socket, unless it takes longer than a time or done is closed. The
// socket rings the bell.
func (s *sockets) connect(dst netip.AddrPort, b bell, limit time.Duration, done <-chan struct{}) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	setOptions(fd)
	c := &socket{fd: fd, sockets: s, bell: b, watched: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET}
	to := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: bigEndian(dst.Port()), Addr: dst.Addr().As4()}
	if err = connect(fd, to); err == unix.EINPROGRESS {
		err = connect(fd, to) // what came meanwhile was looked at in the end of the first
	}
	waiting := pending(err)
	if err != nil && err != unix.EISCONN && !waiting {
		unix.Close(fd)
		return nil, err
	}
	if waiting {
		c.watched |= unix.EPOLLOUT
	}
	if err = s.add(c); err == nil && waiting {
		err = c.await(to, limit, done)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (s *sockets) add(c *socket) error {
	s.mu.Lock()
	s.all[int32(c.fd)] = c
	s.mu.Unlock()
	return c.watch(unix.EPOLL_CTL_ADD)
}

func (c *socket) watch(how int) error {
	return epollControl(c.sockets.fd, how, c.fd, c.watched)
}

func pending(err error) bool { return err == unix.EINPROGRESS || err == unix.EALREADY }

// await waits until a connection has come about.
func (c *socket) await(to *unix.RawSockaddrInet4, limit time.Duration, done <-chan struct{}) error {
	late := time.NewTimer(limit)
	defer late.Stop()
	for {
		select {
		case <-c.bell:
		case <-late.C:
			return errLate
		case <-done:
			return os.ErrClosed
		}
		switch err := connect(c.fd, to); {
		case err == nil, err == unix.EISCONN:
			return nil
		case !pending(err):
			return err
		}
	}
}

// full has epoll tell when the socket, which takes nothing more, has room again.
func (c *socket) full() error {
	if c.watched&unix.EPOLLOUT != 0 {
		return nil
	}
	c.watched |= unix.EPOLLOUT
	return c.watch(unix.EPOLL_CTL_MOD)
}

func setOptions(fd int) {
	set := func(level, name, value int) { _ = setOption(fd, level, name, value) }
	set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle.Seconds()))
	set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}

// closeWrite tells the outside that nothing more comes.
func (c *socket) closeWrite() { shutdown(c.fd, unix.SHUT_WR) }

// failure returns the error that the socket has, if any.
func (c *socket) failure() error {
	failed, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && failed != 0 {
		err = syscall.Errno(failed)
	}
	return err
}

// reset makes close reset the connection.
func (c *socket) reset() {
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

func (c *socket) close() {
	c.sockets.mu.Lock()
	delete(c.sockets.all, int32(c.fd))
	c.sockets.mu.Unlock()
	closeDescriptor(c.fd)
}
