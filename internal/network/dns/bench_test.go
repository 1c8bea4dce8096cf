package dns

import (
	"net"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// BenchmarkQuery measures a question and its answer through sockets: of our own, of one
// that is forwarded, and of one that goes to the upstream directly.
func BenchmarkQuery(b *testing.B) {
	up, _ := upstream(b, resolves)
	_, at := serve(b, fixed(up))
	round := func(b *testing.B, conn net.Conn, packet, reply []byte) {
		if _, err := conn.Write(packet); err != nil {
			b.Error(err)
		}
		if _, err := conn.Read(reply); err != nil {
			b.Error(err)
		}
	}
	for _, bench := range []struct {
		name, asks string
		direct     bool
	}{{"vm", "otter.vm.", false}, {"forwarded", "example.org.", false}, {"direct", "example.org.", true}} {
		b.Run(bench.name, func(b *testing.B) {
			to := at
			if bench.direct {
				to = up
			}
			conn, packet, reply := dial(b, "udp", otter, to), question(b, bench.asks, dnsmessage.TypeA), make([]byte, 1<<16)
			for b.Loop() {
				round(b, conn, packet, reply)
			}
		})
	}
	b.Run("vm/parallel", func(b *testing.B) {
		packet := question(b, "otter.vm.", dnsmessage.TypeA)
		b.RunParallel(func(pb *testing.PB) {
			conn, reply := dial(b, "udp", otter, at), make([]byte, 1<<16)
			for pb.Next() {
				round(b, conn, packet, reply)
			}
		})
	})
}
