package forward

import (
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

const benchBytes = 256 << 20

// BenchmarkForward measures a forwarded port beside the same server without the forward,
// all on this host. The guest's end is a TCP socket, as in a network, a unix socket, or a
// stream that the kernel cannot copy, as over ssh. They run in turn.
func BenchmarkForward(b *testing.B) {
	x, port := newFixture(b), freePort(b)
	x.serve("a", port, func(conn *net.TCPConn) { serveBytes(conn) })
	x.Set("a", Wanted{Name: "otter", Slot: 7, Auto: true, Listening: listening(port)})
	<-x.changed
	forwarded := x.ownOf(7, port).String()
	direct, path := x.servers[serverOf("a", port)], fmt.Sprintf("@banger-forward-%d", port)
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveBytes(conn)
		}
	}()
	ways := []way{{"direct", direct, direct, nil}, {"tcp", forwarded, direct, nil}, {"unix", forwarded, path, nil},
		{"wrapped", forwarded, direct, func(s Stream) Stream { return wrapped{s} }}}
	back := slices.Clone(ways)
	slices.Reverse(back)
	for _, what := range []string{"out", "in", "connect"} {
		b.Run(what, func(b *testing.B) {
			sums := map[string]float64{}
			for b.Loop() {
				for _, w := range append(slices.Clone(ways), back...) {
					x.mu.Lock()
					x.servers[serverOf("a", port)], x.wrap = w.guest, w.wrap
					x.mu.Unlock()
					sums[w.name] += rate(b, what, w.at)
				}
			}
			for name, sum := range sums {
				b.ReportMetric(sum/float64(2*b.N), name+"/s") // MiB, or connections
				if name != "direct" {
					b.ReportMetric(sum/sums["direct"], name+"/direct")
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// way is how a client comes to the server.
type way struct {
	name, at, guest string
	wrap            func(Stream) Stream
}

// serveBytes serves who wants to send or to get benchBytes, as the first byte says.
func serveBytes(conn net.Conn) {
	defer conn.Close()
	what := make([]byte, 1)
	if _, err := io.ReadFull(conn, what); err == nil && what[0] == 'i' {
		conn.Write(make([]byte, benchBytes))
	} else if err == nil && what[0] == 'o' {
		io.Copy(io.Discard, struct{ io.Reader }{conn})
	}
}

// rate returns how many MiB or connections a second there are.
func rate(b *testing.B, what, at string) float64 {
	b.Helper()
	begun, n := time.Now(), 1
	if what == "connect" {
		n = 2000
	}
	for range n {
		conn, err := net.Dial("tcp4", at)
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
