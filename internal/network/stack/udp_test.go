package stack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
)

var uplinkAddr = network.UplinkAddr

func (l *lab) link_() *link { return l.Stack.link }

func down(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetDown(link)
}

func unroute(dst string) {
	_, to, _ := net.ParseCIDR(dst)
	for _, kind := range []int{unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT} {
		_ = netlink.RouteDel(&netlink.Route{Dst: to, Type: kind})
	}
}

// udpEcho returns the address of a server that sends each datagram back.
func (l *lab) udpEcho(t *testing.T, port int) string {
	t.Helper()
	var c net.PacketConn
	must(t, l.server.Do(func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(serverIP), Port: port})
		return err
	}))
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from)
		}
	}()
	return c.LocalAddr().String()
}

// dialUDP connects a socket of the guest.
func (l *lab) dialUDP(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	must(t, l.guest.Do(func() (err error) {
		c, err = net.Dial(network, addr)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	return c
}

func ask4(t *testing.T, c net.Conn, payload []byte) error {
	t.Helper()
	if _, err := c.Write(payload); err != nil {
		return err
	}
	got := make([]byte, 65535)
	n, err := c.Read(got)
	if err == nil && !bytes.Equal(got[:n], payload) {
		t.Errorf("sent %d bytes, got %d others", len(payload), n)
	}
	return err
}

func TestDatagrams(t *testing.T) {
	for name, mtu := range map[string]int{"65520": 65520, "1500": 1500} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, labOptions{Options: Options{MTU: mtu}})
			c := l.dialUDP(t, "udp4", l.udpEcho(t, 0))
			for _, size := range []int{1, 0, 1472, 1473, 9000, 65507} {
				if err := ask4(t, c, pattern(2, size)); err != nil {
					t.Errorf("%d bytes: %v", size, err)
				}
			}
			if s := l.Stats(); s.UDP != 1 || s.Flows != 1 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

func TestDatagramsToNobody(t *testing.T) {
	l := newLab(t, labOptions{})
	for addr, want := range map[string]error{serverIP + ":9": syscall.ECONNREFUSED, gateway.String() + ":9": syscall.ECONNREFUSED, "169.254.169.254:80": syscall.EHOSTUNREACH,
		"100.64.0.1:9": syscall.ENETUNREACH} {
		c := l.dialUDP(t, "udp4", addr)
		raw, err := c.(*net.UDPConn).SyscallConn()
		must(t, err)
		must(t, raw.Control(func(fd uintptr) { // without this Linux reports only what cannot change
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		}))
		must(t, err)
		start := time.Now()
		if err := ask4(t, c, []byte("?")); !errors.Is(err, want) || time.Since(start) > within {
			t.Errorf("%s: %v after %v; want %v", addr, err, time.Since(start), want)
		}
	}
}

func TestFlowsAreBounded(t *testing.T) {
	l := newLab(t, labOptions{Options: Options{MaxUDP: 16}})
	addr := l.udpEcho(t, 0)
	first := l.dialUDP(t, "udp4", addr)
	must(t, ask4(t, first, []byte("answered")))
	for range 50 {
		l.dialUDP(t, "udp4", serverIP+":9").Write([]byte("flood"))
	}
	must(t, ask4(t, first, []byte("still")))
	if s := l.Stats(); s.UDP != 8 || s.Flows != 51 || s.Full != 43 {
		t.Errorf("stats %+v", s)
	}
}

func TestIdleFlowsEnd(t *testing.T) {
	l := newLab(t, labOptions{Options: Options{Asking: 2 * time.Second, Replied: 2 * time.Second, Query: 2 * time.Second}})
	l.udpEcho(t, 53)
	must(t, ask4(t, l.dialUDP(t, "udp4", serverIP+":53"), []byte("query")))
	must(t, ask4(t, l.dialUDP(t, "udp4", l.udpEcho(t, 0)), []byte("hello")))
	l.dialUDP(t, "udp4", serverIP+":9").Write([]byte("lost"))
	for deadline := time.Now().Add(10 * time.Second); l.Stats().UDP > 0; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("flows do not end: %+v", l.Stats())
		}
	}
	if s := l.Stats(); s.Flows != 3 {
		t.Errorf("stats %+v", s)
	}
}

// ping returns an echo socket of the guest.
func (l *lab) ping(t *testing.T, addr string) *os.File {
	t.Helper()
	var fd int
	must(t, l.guest.Do(func() (err error) {
		if err := sysctl("net/ipv4/ping_group_range", "0 0"); err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(addr).As4()})
	}))
	f := os.NewFile(uintptr(fd), "ping")
	t.Cleanup(func() { f.Close() })
	return f
}

// echoes sends an echo request and reports how it ends within a time.
func echoes(t *testing.T, f *os.File, seq uint16, size int, wait time.Duration) error {
	t.Helper()
	m := append(make([]byte, 8), pattern(3, size)...)
	m[0] = 8
	binary.BigEndian.PutUint16(m[6:], seq)
	if _, err := f.Write(m); err != nil {
		return err
	}
	must(t, f.SetReadDeadline(time.Now().Add(wait)))
	got := make([]byte, 65535)
	n, err := f.Read(got)
	if err == nil && (n != len(m) || got[0] != 0 || !bytes.Equal(got[6:n], m[6:])) {
		t.Errorf("reply %d bytes, type %d", n, got[0])
	}
	return err
}

func TestEcho(t *testing.T) {
	l := newLab(t, labOptions{})
	t.Run("forbidden", func(t *testing.T) {
		// What is open cannot be closed again from within a user namespace.
		if now, _ := os.ReadFile("/proc/sys/net/ipv4/ping_group_range"); bytes.HasPrefix(now, []byte("0")) {
			t.Skip("an earlier run has allowed echo sockets in this namespace")
		}
		if err := echoes(t, l.ping(t, serverIP), 1, 56, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the host forbids it, and the reply is %v", err)
		}
		if s := l.Stats(); s.Echo != 0 {
			t.Errorf("stats %+v", s)
		}
	})
	must(t, sysctl("net/ipv4/ping_group_range", "0 0"))
	f := l.ping(t, serverIP)
	for seq, size := range []int{0, 56, 9000, 65000} {
		if err := echoes(t, f, uint16(seq), size, 5*time.Second); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if s := l.Stats(); s.Echo != 1 {
		t.Errorf("stats %+v", s)
	}
	if err := echoes(t, l.ping(t, gateway.String()), 1, 56, 5*time.Second); err != nil {
		t.Errorf("the gateway: %v", err)
	}
	if err := echoes(t, l.ping(t, "198.18.0.1"), 1, 56, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody is there, and the reply is %v", err)
	}
	if err := echoes(t, l.ping(t, "192.0.2.1"), 1, 0, time.Second); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("the host itself: %v", err)
	}
}
