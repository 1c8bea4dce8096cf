package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of what askers can make the server hold.
const (
	mostForwards     = 512 // queries under way at once
	mostForwardsEach = 64  // of one asker
	mostConns        = 128
	mostConnsEach    = 16
	idle             = 10 * time.Second // of a connection without a query
	writeTime        = 5 * time.Second
)

// Server answers queries. Its methods may be called at any time.
type Server struct {
	table     atomic.Pointer[Table]
	upstreams func() []netip.AddrPort
	forwards  bound
	conns     bound
	down      down
}

// NewServer returns a server that answers from table, and forwards to what upstreams
// returns, the first one first.
func NewServer(table *Table, upstreams func() []netip.AddrPort) *Server {
	s := &Server{upstreams: upstreams, forwards: bound{all: mostForwards, each: mostForwardsEach}, conns: bound{all: mostConns, each: mostConnsEach}}
	s.table.Store(table)
	return s
}

// SetTable replaces the table that the server answers from.
func (s *Server) SetTable(t *Table) { s.table.Store(t) }

// Socket is where the server listens, by UDP and TCP.
type Socket struct {
	Packets net.PacketConn
	Streams net.Listener
	Askers  Askers
}

// Close closes both.
func (s Socket) Close() error { return errors.Join(s.Packets.Close(), s.Streams.Close()) }

// Serve answers on the sockets until ctx ends, or one of them fails. Then it closes them
// all.
func (s *Server) Serve(ctx context.Context, sockets ...Socket) error {
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	for _, socket := range sockets {
		stop := context.AfterFunc(ctx, func() { socket.Close() })
		defer stop()
		serving.Go(func() { cancel(s.servePackets(ctx, socket)) })
		serving.Go(func() { cancel(s.serveStreams(ctx, socket)) })
	}
	serving.Wait()
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

func (s *Server) servePackets(ctx context.Context, socket Socket) error {
	var forwarding sync.WaitGroup
	defer forwarding.Wait()
	buffer := make([]byte, mostQuery+1)
	for {
		n, to, err := socket.Packets.ReadFrom(buffer)
		if err != nil {
			return err
		}
		from := addrOf(to)
		reply, q := s.table.Load().respond(buffer[:n], socket.Askers, from)
		if q == nil {
			if reply != nil {
				socket.Packets.WriteTo(reply, to)
			}
			continue
		}
		if !s.forwards.enter(from) {
			socket.Packets.WriteTo(q.pack(answer{rcode: dnsmessage.RCodeServerFailure}), to)
			continue
		}
		packet := append([]byte(nil), buffer[:n]...)
		forwarding.Go(func() {
			defer s.forwards.leave(from)
			socket.Packets.WriteTo(s.forward(ctx, q, packet, byUDP), to)
		})
	}
}

func (s *Server) serveStreams(ctx context.Context, socket Socket) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := socket.Streams.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			select { // there is no event for a descriptor that becomes free
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
			}
		}
		if err != nil {
			return err
		}
		from := addrOf(conn.RemoteAddr())
		if !s.table.Load().serves(socket.Askers, from) || !s.conns.enter(from) {
			conn.Close()
			continue
		}
		serving.Go(func() {
			defer s.conns.leave(from)
			s.serveStream(ctx, conn, socket.Askers, from)
		})
	}
}

// serveStream answers the queries of one connection. They may overtake each other.
func (s *Server) serveStream(ctx context.Context, conn net.Conn, askers Askers, from netip.Addr) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var forwarding sync.WaitGroup
	defer forwarding.Wait()
	var writing sync.Mutex
	write := func(reply []byte) error {
		writing.Lock()
		defer writing.Unlock()
		conn.SetWriteDeadline(time.Now().Add(writeTime))
		return writeMessage(conn, reply)
	}
	in := bufio.NewReaderSize(conn, mostQuery)
	for {
		// One for the whole query: it does not help to send it slowly.
		conn.SetReadDeadline(time.Now().Add(idle))
		packet, err := readMessage(in, mostQuery)
		if err != nil {
			return
		}
		reply, q := s.table.Load().respond(packet, askers, from)
		if q != nil && s.forwards.enter(from) {
			forwarding.Go(func() {
				defer s.forwards.leave(from)
				if write(s.forward(ctx, q, packet, byTCP)) != nil {
					conn.Close()
				}
			})
			continue
		}
		if q != nil {
			reply = q.pack(answer{rcode: dnsmessage.RCodeServerFailure})
		}
		if reply == nil || write(reply) != nil {
			return
		}
	}
}

// writeMessage writes a message to a stream, in one packet with its length.
func writeMessage(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message))), message...))
	return err
}

// errTooLong means that a message of a stream is too long.
var errTooLong = errors.New("a message is too long")

// readMessage reads a message from a stream.
func readMessage(r io.Reader, most int) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > most {
		return nil, errTooLong
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}

// addrOf returns the address of a peer, without its port.
func addrOf(peer net.Addr) netip.Addr {
	if known, ok := peer.(interface{ AddrPort() netip.AddrPort }); ok {
		return known.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// bound counts what is under way, in all and for each asker.
type bound struct {
	all, each int

	mu    sync.Mutex
	total int
	of    map[netip.Addr]int
}

// enter reports whether there is room for one more.
func (b *bound) enter(from netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total >= b.all || b.of[from] >= b.each {
		return false
	}
	if b.of == nil {
		b.of = map[netip.Addr]int{}
	}
	b.total++
	b.of[from]++
	return true
}

func (b *bound) leave(from netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total--
	if b.of[from]--; b.of[from] == 0 {
		delete(b.of, from)
	}
}
