package stack

import (
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a connection to the outside. It does without package net, whose dialer takes
// several times as long as the system calls.
type socket struct {
	*os.File
	raw syscall.RawConn
}

// connect connects a new socket. If the other end is not so near that it has answered at
// once, wait is called before it is waited for: it sets a deadline, and learns what to
// close should that be given up.
func connect(dst netip.AddrPort, wait func(*socket) error) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	setOptions(fd)
	to := &unix.SockaddrInet4{Port: int(dst.Port()), Addr: dst.Addr().As4()}
	if err = unix.Connect(fd, to); err == unix.EINPROGRESS {
		err = unix.Connect(fd, to) // what came meanwhile was looked at in the end of the first
	}
	waiting := pending(err)
	if err != nil && err != unix.EISCONN && !waiting {
		unix.Close(fd)
		return nil, err
	}
	s := &socket{File: os.NewFile(uintptr(fd), "outside")} // Go's poller knows it from now on
	if s.raw, err = s.SyscallConn(); err == nil && waiting {
		err = s.await(to, wait)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func pending(err error) bool { return err == unix.EINPROGRESS || err == unix.EALREADY }

// await waits until a connection has come about.
func (s *socket) await(to unix.Sockaddr, wait func(*socket) error) error {
	if err := wait(s); err != nil {
		return err
	}
	var failed error
	err := s.raw.Write(func(fd uintptr) bool {
		failed = unix.Connect(int(fd), to)
		return !pending(failed)
	})
	if err != nil {
		return err
	}
	if failed != nil && failed != unix.EISCONN {
		return failed
	}
	return s.SetWriteDeadline(time.Time{})
}

func setOptions(fd int) {
	set := func(name, value int) { _ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, name, value) }
	set(unix.TCP_NODELAY, 1)
	set(unix.TCP_KEEPIDLE, int(keepAlive.Idle.Seconds()))
	set(unix.TCP_KEEPINTVL, int(keepAlive.Interval.Seconds()))
	set(unix.TCP_KEEPCNT, keepAlive.Count)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}

// closeWrite tells the outside that nothing more comes.
func (s *socket) closeWrite() {
	_ = s.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
}

// reset makes Close reset the connection.
func (s *socket) reset() {
	_ = s.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}
