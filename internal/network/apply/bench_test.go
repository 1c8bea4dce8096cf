package apply

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
)

// BenchmarkApply measures the changes that a user waits for.
func BenchmarkApply(b *testing.B) {
	if !inside(b) {
		return
	}
	one, two := plan(network.Bridge, 1), plan(network.Bridge, 2)
	off := plan(network.Bridge, 1)
	off.Guests[0].Egress = false
	many := plan(network.Bridge, 100)
	for _, bench := range []struct {
		name string
		a, b network.Wanted
	}{
		{"first-and-last-guest", one, none(one)},
		{"unchanged", one, one},
		{"egress", off, one},
		{"another-guest", two, one},
		{"unchanged-with-100", many, many},
	} {
		b.Run(bench.name, func(b *testing.B) {
			mustApply(b, bench.b)
			var there, back float64
			for range b.N {
				there += milliseconds(b, bench.a)
				back += milliseconds(b, bench.b)
			}
			b.ReportMetric(there/float64(b.N), "ms/there")
			b.ReportMetric(back/float64(b.N), "ms/back")
		})
	}
}

func milliseconds(b *testing.B, w network.Wanted) float64 {
	at := time.Now()
	mustApply(b, w)
	return float64(time.Since(at).Microseconds()) / 1000
}

// BenchmarkBridge measures a guest's way to a server outside, over a bridge of ours, beside
// a veth pair alone. The guest's card is a veth pair, too, so that no VMM takes part.
func BenchmarkBridge(b *testing.B) {
	if !inside(b) {
		return
	}
	w := plan(network.Bridge, 1)
	far := outside(b)
	mustApply(b, w)
	near, at := plug(b, w, w.Guests[0]), serveBytes(b, far)
	for _, what := range []string{"out", "in", "connect"} {
		b.Run(what, func(b *testing.B) {
			rates := map[bool][]float64{}
			for b.Loop() {
				for _, bridged := range []bool{false, true, true, false} {
					dial := func() (conn net.Conn, err error) { return net.Dial("tcp4", at) }
					if bridged {
						dial = func() (net.Conn, error) { return near.dial(at) }
					}
					rates[bridged] = append(rates[bridged], rate(b, what, dial))
				}
			}
			b.ReportMetric(mean(rates[true]), "bridge/s") // MiB, or connections
			b.ReportMetric(mean(rates[false]), "veth/s")
			b.ReportMetric(mean(rates[true])/mean(rates[false]), "bridge/veth")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func mean(all []float64) (sum float64) {
	for _, x := range all {
		sum += x
	}
	return sum / float64(len(all))
}

// plug puts a guest behind a veth pair in the place of its TAP.
func plug(b *testing.B, w network.Wanted, g network.Guest) *space {
	b.Helper()
	s, name := newSpace(b), network.Tap(g.ID)
	tap, err1 := netlink.LinkByName(name)
	bridge, err2 := netlink.LinkByName(w.Instance.Bridge())
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	var peer int
	s.Must(b, func() error { peer = unix.Gettid(); return nil })
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = name, bridge.Attrs().Index
	port := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(peer)}
	if err := errors.Join(netlink.LinkDel(tap), netlink.LinkAdd(port), netlink.LinkSetUp(port)); err != nil {
		b.Fatal(err)
	}
	s.Must(b, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.LinkSetHardwareAddr(link, network.MAC(g.ID)), netlink.LinkSetUp(link),
			netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(g.Addr, w.Subnet.Bits()))}),
			netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: network.Gateway(w.Subnet).AsSlice()}))
	})
	return s
}

const benchBytes = 256 << 20

// serveBytes serves who wants to send or to get benchBytes, as the first byte says.
func serveBytes(b *testing.B, s *space) string {
	b.Helper()
	var l net.Listener
	s.Must(b, func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf("%v:0", outsideAddr))
		return err
	})
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				what := make([]byte, 1)
				if _, err := io.ReadFull(conn, what); err == nil && what[0] == 'i' {
					conn.Write(make([]byte, benchBytes))
				} else if err == nil && what[0] == 'o' {
					io.Copy(io.Discard, struct{ io.Reader }{conn})
				}
			}()
		}
	}()
	return l.Addr().String()
}

// rate returns how many MiB or connections a second there are.
func rate(b *testing.B, what string, dial func() (net.Conn, error)) float64 {
	b.Helper()
	begun, n := time.Now(), 1
	if what == "connect" {
		n = 2000
	}
	for range n {
		conn, err := dial()
		if err == nil {
			_, err = conn.Write([]byte(what[:1]))
		}
		if err == nil && what == "out" {
			_, err = conn.Write(make([]byte, benchBytes))
		}
		if err == nil && what != "in" {
			err = conn.(*net.TCPConn).CloseWrite()
		}
		if err == nil {
			_, err = io.Copy(io.Discard, struct{ io.Reader }{conn})
		}
		if err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
	if what != "connect" {
		n = benchBytes >> 20
	}
	return float64(n) / time.Since(begun).Seconds()
}
