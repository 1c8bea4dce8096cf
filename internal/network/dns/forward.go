package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// patience is how long an upstream may take before the next one is asked. Askers usually
// wait 5 s.
const patience = 2 * time.Second

// mostTries bounds how many upstreams are asked for one query.
const mostTries = 3

// transport is how a query came, and how it is forwarded.
type transport string

const (
	byUDP transport = "udp"
	byTCP transport = "tcp"
)

// forward returns the answer of the host's resolvers to a query, which packet is. It
// keeps packet.
func (s *Server) forward(ctx context.Context, q *query, packet []byte, by transport) []byte {
	most := q.size
	if by == byTCP {
		most = 1<<16 - 1
	}
	if message := s.ask(ctx, q, packet, by); message != nil {
		return q.deliver(message, most)
	}
	return q.pack(answer{rcode: dnsmessage.RCodeServerFailure})
}

// ask returns the first answer of a resolver, or nil.
func (s *Server) ask(ctx context.Context, q *query, packet []byte, by transport) (last []byte) {
	all := s.upstreams()
	tries := s.down.last(all)
	if len(tries) == 1 { // a packet may get lost
		tries = append(tries, tries[0])
	}
	for _, upstream := range tries[:min(len(tries), mostTries)] {
		message, err := exchange(ctx, upstream, q, packet, by)
		if ctx.Err() != nil {
			return nil
		}
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			s.down.mark(upstream)
		}
		if err != nil {
			continue
		}
		s.down.clear(upstream)
		last = message
		if !fails(message) || len(all) == 1 {
			break
		}
	}
	return last
}

// fails reports whether another resolver may know more.
func fails(message []byte) bool {
	switch dnsmessage.RCode(message[3] & 0xf) {
	case dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused, dnsmessage.RCodeNotImplemented:
		return true
	}
	return false
}

// exchange asks one upstream. Each query has a source port of its own, which the kernel
// chooses at random, and an ID of its own: who does not see the query cannot forge an
// answer. The socket is connected, so no other's packets arrive.
func exchange(ctx context.Context, upstream netip.AddrPort, q *query, packet []byte, by transport) ([]byte, error) {
	deadline := time.Now().Add(patience)
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.DialContext(ctx, string(by), upstream.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(deadline)
	rand.Read(packet[:2])
	id := binary.BigEndian.Uint16(packet)
	if by == byTCP {
		err = writeMessage(conn, packet)
	} else {
		_, err = conn.Write(packet)
	}
	if err != nil {
		return nil, err
	}
	buffer := make([]byte, mostUDP+1) // one more than anybody gets tells that it was longer
	for {
		message := buffer
		if by == byTCP {
			message, err = readMessage(conn, 1<<16-1)
		} else {
			var n int
			n, err = conn.Read(buffer)
			message = buffer[:n]
		}
		if err != nil {
			return nil, err
		}
		if q.answers(message, id) {
			return message, nil
		}
	}
}

// downTime is how long an upstream that did not answer is asked last.
const downTime = 30 * time.Second

// down remembers the upstreams that did not answer.
type down struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func (d *down) mark(upstream netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until == nil || len(d.until) > 100 { // of networks that the host has left
		d.until = map[netip.AddrPort]time.Time{}
	}
	d.until[upstream] = time.Now().Add(downTime)
}

func (d *down) clear(upstream netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.until, upstream)
}

// last returns the upstreams with those that are down behind the others.
func (d *down) last(all []netip.AddrPort) []netip.AddrPort {
	d.mu.Lock()
	defer d.mu.Unlock()
	var up, down []netip.AddrPort
	for _, upstream := range all {
		if time.Now().Before(d.until[upstream]) {
			down = append(down, upstream)
		} else {
			up = append(up, upstream)
		}
	}
	return append(up, down...)
}
