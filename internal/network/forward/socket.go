package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// socket accepts connections to an address of the host.
type socket struct {
	*net.TCPListener
	at    netip.AddrPort
	ended context.Context
	end   context.CancelFunc
}

// listen listens on an address, and with :: on IPv6 alone. MPTCP is off, because its
// sockets cannot be spliced.
func listen(at netip.AddrPort) (*net.TCPListener, error) {
	network := "tcp6"
	if at.Addr().Is4() {
		network = "tcp4"
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// lowest returns the lowest port that this process may listen on.
func lowest() uint16 {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_NET_BIND_SERVICE) != 0 {
		return 0
	}
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return privileged
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
	if err != nil {
		return privileged
	}
	return uint16(min(port, privileged))
}

// openSocket accepts on l. The caller holds mu.
func (f *Forwards) openSocket(at netip.AddrPort, l *net.TCPListener) {
	s := &socket{TCPListener: l, at: at}
	s.ended, s.end = context.WithCancel(f.closing)
	f.sockets[at] = s
	f.running.Go(func() { f.serve(s) })
}

// closeSocket ends a socket, not its connections. The caller holds mu.
func (f *Forwards) closeSocket(at netip.AddrPort) {
	if s := f.sockets[at]; s != nil {
		s.end()
		s.Close()
		delete(f.sockets, at)
	}
}

// serve accepts connections until the socket is closed.
func (f *Forwards) serve(s *socket) {
	for {
		conn, err := f.accept(s)
		if err != nil {
			return
		}
		to := f.targetOf(s, conn)
		if to.vm == nil || !to.vm.enter(s.ended) {
			reset(conn)
			continue
		}
		go func() {
			defer to.vm.leave()
			f.connect(to, conn)
		}()
	}
}

// accept continues after errors that pass.
func (f *Forwards) accept(s *socket) (*net.TCPConn, error) {
	for told := false; ; told = true {
		conn, err := s.AcceptTCP()
		if err == nil || !passes(err) {
			return conn, err
		}
		if !told {
			f.Log.Warn("accept a connection; this is tried again", "address", s.at, "err", err)
		}
		if !pause(s.ended, acceptPause) {
			return nil, err
		}
	}
}

// acceptPause is how long an error lasts that passes. Nothing tells when a descriptor
// is free again.
const acceptPause = 200 * time.Millisecond

// passes reports whether a listener works again after err.
func passes(err error) bool {
	for _, known := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.ECONNABORTED} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// targetOf returns where a connection goes: a socket for every address accepts those for
// VMs' own addresses as well.
func (f *Forwards) targetOf(s *socket, conn *net.TCPConn) target {
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	f.mu.Lock()
	defer f.mu.Unlock()
	if t, ok := f.targets[netip.AddrPortFrom(local.Addr().Unmap(), local.Port())]; ok {
		return t
	}
	return f.targets[s.at]
}

// enter waits until the VM may have one more connection. It reports false if the socket
// or the VM's forwards end before that.
func (v *vm) enter(ended context.Context) bool {
	select {
	case v.slots <- struct{}{}:
		return true
	case <-ended.Done():
	case <-v.ctx.Done():
	}
	return false
}

func (v *vm) leave() { <-v.slots }
