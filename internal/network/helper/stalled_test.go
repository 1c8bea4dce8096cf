package helper

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	stalled = 2048 // connections, which is all that one guest gets
	// mostStalled is what the helper may take with them, in MiB.
	mostStalled = 160
)

var raced bool

// TestStalledConnections: a guest opens all the connections that it gets, and on each both
// ends send and neither reads, until nothing moves. The helper's memory stays bounded, and
// another guest is served as ever.
func TestStalledConnections(t *testing.T) {
	if raced {
		t.Skip("the race detector multiplies what a process takes; fix: make vmtest")
	}
	if !inLab(t) {
		return
	}
	var files unix.Rlimit
	if must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files)); files.Cur < 3*stalled {
		t.Skipf("this process may have %d files, and needs %d; fix: ulimit -n %d", files.Cur, 3*stalled, 3*stalled)
	}
	l := newLab(t)
	at := l.serve(t, func(c net.Conn) {
		io.WriteString(c, "hello")
	})
	fresh := l.memory(t, "VmRSS")
	s := &stall{lab: l, t: t}
	s.open()
	s.fill()
	now, peak := l.memory(t, "VmRSS"), l.memory(t, "VmHWM")
	t.Logf("resident: fresh %.1f MiB, with %d stalled connections %.1f MiB, peak %.1f MiB; %d MiB were sent", fresh, stalled, now, peak, s.sent>>20)
	if peak > mostStalled {
		t.Errorf("the helper takes %.1f MiB, more than %d", peak, mostStalled)
	}
	if _, err := s.connect(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the guest's next connection: %v", err)
	}
	conn, err := l.dial(labGuests[1], "tcp4", at)
	must(t, err)
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("another guest got %q, %v", got, err)
	}
}

// stall is connections on which both ends send and neither reads.
type stall struct {
	lab      *lab
	t        *testing.T
	listener int
	at       *unix.SockaddrInet4
	all      int // an epoll instance with the ends of all
	sent     int
}

// open opens the connections.
func (s *stall) open() {
	var err error
	s.all, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	must(s.t, err)
	s.t.Cleanup(func() { unix.Close(s.all) })
	must(s.t, s.lab.server.Do(func() (err error) {
		if s.listener, err = s.socket(); err != nil {
			return err
		}
		if err := unix.Bind(s.listener, &unix.SockaddrInet4{Addr: netip.MustParseAddr(labServer).As4()}); err != nil {
			return err
		}
		return unix.Listen(s.listener, stalled)
	}))
	at, err := unix.Getsockname(s.listener)
	must(s.t, err)
	s.at = at.(*unix.SockaddrInet4)
	for range stalled {
		guest, err := s.connect()
		must(s.t, err)
		server, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
		must(s.t, err)
		s.t.Cleanup(func() { unix.Close(server) })
		for _, fd := range []int{guest, server} {
			must(s.t, unix.SetNonblock(fd, true))
			must(s.t, unix.EpollCtl(s.all, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)}))
		}
	}
}

// connect opens a connection of the guest's.
func (s *stall) connect() (fd int, err error) {
	err = s.lab.guests.Do(func() error {
		if fd, err = s.socket(); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: labGuests[0].As4()}); err != nil {
			return err
		}
		return unix.Connect(fd, s.at)
	})
	return fd, err
}

// socket returns a socket that itself takes little, so that the helper is what is filled.
func (s *stall) socket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	s.t.Cleanup(func() { unix.Close(fd) })
	return fd, errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096))
}

// fill sends from both ends until nothing has moved for two seconds.
func (s *stall) fill() {
	events, data := make([]unix.EpollEvent, 256), make([]byte, 16<<10)
	for {
		n, err := unix.EpollWait(s.all, events, 2000)
		if err == unix.EINTR {
			continue
		}
		must(s.t, err)
		if n == 0 {
			return
		}
		for _, e := range events[:n] {
			sent, err := unix.Write(int(e.Fd), data)
			if err != nil && err != unix.EAGAIN {
				s.t.Fatalf("send: %v", err)
			}
			s.sent += max(sent, 0)
		}
	}
}
