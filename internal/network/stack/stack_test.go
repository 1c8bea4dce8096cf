package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPolicy(t *testing.T) {
	p := Policy{Guests: netip.MustParsePrefix("10.201.16.0/20")}
	for addr, want := range map[string]bool{
		"1.1.1.1": true, "192.168.1.1": true, "10.0.0.1": true, "10.201.32.1": true, "223.255.255.255": true, "198.51.100.4": true,
		"10.201.16.1": false, "10.201.31.254": false,
		"0.0.0.0": false, "0.1.2.3": false, "127.0.0.1": false, "127.255.255.255": false, "169.254.169.254": false,
		"224.0.0.1": false, "239.255.255.250": false, "240.0.0.1": false, "255.255.255.255": false,
		"198.51.100.0": false, "198.51.100.1": false, "198.51.100.2": false, "198.51.100.3": false,
		"::1": false, "::ffff:1.1.1.1": false,
	} {
		if got := p.Allows(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	for r, want := range map[Route]bool{
		{Link: "eth0"}: true, {Link: "docker0"}: true, {}: true,
		{Local: true, Link: "lo"}: false, {Local: true}: false, {Link: "bgr0123abcd"}: false,
	} {
		if got := p.Leads(r); got != want {
			t.Errorf("%+v: %v", r, got)
		}
	}
	if !(Policy{}).Allows(netip.MustParseAddr("10.201.16.1")) {
		t.Error("without a subnet everything is one")
	}
}

func TestParseRoute(t *testing.T) {
	for _, m := range [][]byte{nil, make([]byte, 16), make([]byte, 27), append([]byte{0, 0, 0, 0, unix.RTM_NEWROUTE}, make([]byte, 20)...)} {
		if _, r, err := parseRoute(m); err == nil {
			t.Errorf("%v is a route: %+v", m, r)
		}
	}
}

// TestHostIsClosed: every service of the host listens on 0.0.0.0 here, and no guest
// reaches it by any address, also not by one that the host gets later.
func TestHostIsClosed(t *testing.T) {
	l := newLab(t, labOptions{Options: Options{Guests: netip.MustParsePrefix("10.201.16.0/20")}})
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	must(t, err)
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	must(t, up("h0", "10.77.0.1/24"))
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bgrfeed1234"}}
	must(t, netlink.LinkAdd(bridge))
	defer netlink.LinkDel(bridge)
	must(t, up(bridge.Name, "10.202.0.1/20"))
	for _, ip := range []string{"192.0.2.1", "10.77.0.1", "169.254.169.254", "192.0.2.255", "10.77.0.255", "10.201.16.9", "10.202.0.1", "10.202.0.2"} {
		l.wantRefused(t, net.JoinHostPort(ip, port), syscall.EHOSTUNREACH)
	}
	if s := l.Stats(); s.Denied < 8 || s.Connections != 0 {
		t.Errorf("stats %+v", s)
	}
	l.wantRefused(t, net.JoinHostPort("10.88.0.1", port), syscall.ENETUNREACH, syscall.EHOSTUNREACH) // outside
	before := l.Stats().Denied
	must(t, up("h0", "10.88.0.1/32"))
	l.wantRefused(t, net.JoinHostPort("10.88.0.1", port), syscall.EHOSTUNREACH)
	if s := l.Stats(); s.Denied != before+1 {
		t.Errorf("an address that was outside before: %+v", s)
	}
}

func TestGatewayServes(t *testing.T) {
	l := newLab(t, labOptions{})
	ln, err := l.Listen(53)
	must(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.Copy(c, c)
			c.Close()
		}
	}()
	c := l.mustDial(t, gateway.String()+":53")
	c.Write([]byte("tcp"))
	c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "tcp" {
		t.Errorf("%q, %v", b, err)
	}
	pc, err := l.ListenPacket(53)
	must(t, err)
	defer pc.Close()
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	}()
	must(t, ask4(t, l.dialUDP(t, "udp4", gateway.String()+":53"), []byte("udp")))
	if _, err := l.Listen(53); err == nil {
		t.Error("two listen on one port")
	}
}

func TestRunEndsWithContextAndDevice(t *testing.T) {
	l := newLab(t, labOptions{})
	var tap *os.File
	must(t, l.guest.Do(func() (err error) {
		tap, err = openTAP0("bgu2")
		return err
	}))
	s, err := New(tap, Options{})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	defer s.Close()
	must(t, s.Run(ctx))
	must(t, l.guest.Do(func() (err error) {
		tap, err = openTAP0("bgu3")
		return err
	}))
	s, err = New(tap, Options{})
	must(t, err)
	defer s.Close()
	gone := make(chan error)
	go func() { gone <- s.Run(t.Context()) }()
	must(t, l.guest.Do(func() error {
		link, err := netlink.LinkByName("bgu3")
		return errors.Join(err, netlink.LinkDel(link))
	}))
	if err := <-gone; err == nil {
		t.Error("run did not notice that the TAP is gone")
	}
}

// openTAP0 creates a TAP without addresses.
func openTAP0(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), up(name)
}
