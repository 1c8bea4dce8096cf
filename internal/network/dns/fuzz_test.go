package dns

import (
	"bytes"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// FuzzRespond checks that every packet gets no answer, one that can be read and is small
// enough, or is forwarded without being about our names.
func FuzzRespond(f *testing.F) {
	for _, name := range []string{"otter.vm.", "fox.vm.", "2.16.64.127.in-addr.arpa.", "example.org.", "."} {
		for _, asked := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypePTR, dnsmessage.TypeSOA, dnsmessage.TypeALL} {
			f.Add(question(f, name, asked))
			f.Add(question(f, name, asked, edns(1232, 1)))
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		given := bytes.Clone(packet)
		reply, q := table.respond(packet, Guests, otter)
		if !bytes.Equal(given, packet) {
			t.Error("the packet was changed")
		}
		if q != nil {
			if _, ours := table.lookup(q.question); ours || reply != nil {
				t.Errorf("forwards %v", q.question)
			}
			return
		}
		if reply == nil {
			return
		}
		m := unpack(t, reply)
		if len(reply) > usualUDP || !m.Response || m.ID != uint16(packet[0])<<8|uint16(packet[1]) {
			t.Errorf("%d bytes, %+v", len(reply), m.Header)
		}
	})
}

// FuzzDeliver checks what an upstream says: it never becomes larger than its asker takes,
// keeps the asker's ID, and has no IPv6 address for a question for one.
func FuzzDeliver(f *testing.F) {
	for _, name := range []string{"example.org.", "missing.example.org."} {
		for _, asked := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeTXT} {
			packet := question(f, name, asked, edns(1232, 0))
			var m dnsmessage.Message
			m.Unpack(packet)
			packed, err := resolves(m, byTCP).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(packet, packed)
		}
	}
	f.Fuzz(func(t *testing.T, packet, message []byte) {
		q, problem := parse(packet)
		if q == nil || problem != 0 || !q.answers(message, 0x1234) {
			return
		}
		reply := q.deliver(message, q.size)
		h, ipv6, err := inspect(reply)
		if err != nil || len(reply) > q.size || h.ID != q.header.ID || ipv6 && q.question.Type == dnsmessage.TypeAAAA {
			t.Errorf("%v, %d of %d bytes, %+v", err, len(reply), q.size, h)
		}
	})
}

// FuzzNameservers checks that every resolv.conf gives some resolvers, and not too many.
func FuzzNameservers(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\noptions edns0\nnameserver fe80::1%eth0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list := nameservers(text)
		if len(list) < 1 || len(list) > mostUpstreams {
			t.Errorf("%v", list)
		}
		for _, at := range list {
			if !at.IsValid() || at.Port() != 53 {
				t.Errorf("%v", at)
			}
		}
	})
}
