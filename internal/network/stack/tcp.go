package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Buffers of a connection, in each direction. A new one gets its share of budget, and
// those before it keep theirs: with the default limit guests that let all fill up take
// five times the budget per direction.
const (
	largestBuffer  = 2 << 20
	smallestBuffer = 32 << 10
	budget         = 64 << 20
)

// keepAlive finds out that a guest was killed or that a server vanished, so that dead
// connections do not fill the table. It is rare: each probe wakes the process.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Minute, Interval: 30 * time.Second, Count: 6}

// timeWait is short because the link loses and reorders nothing, and each waiting
// connection takes memory.
const timeWait = time.Second

func tuneTCP(s *stack.Stack) error {
	sack, moderate, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(false), tcpip.TCPTimeWaitTimeoutOption(timeWait)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: smallestBuffer, Default: largestBuffer, Max: largestBuffer}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: smallestBuffer, Default: largestBuffer, Max: largestBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &wait, &send, &receive} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set an option of TCP: %s", err)
		}
	}
	return nil
}

// connections are the guests' TCP connections to the outside.
type connections struct {
	s         *Stack
	forwarder *tcp.Forwarder
	ctx       context.Context
	cancel    context.CancelFunc
	dialer    net.Dialer
	running   sync.WaitGroup // all of open
	pipes     sync.WaitGroup // those of open that are connected

	mu     sync.Mutex
	open   map[stack.TransportEndpointID]*opening
	closed bool
}

// opening is what is kept of a connection's first packets.
type opening struct {
	quote    []byte // of the guest's
	greeting []byte // the frame that answered it
}

func newConnections(s *Stack) *connections {
	c := &connections{s: s, open: map[stack.TransportEndpointID]*opening{},
		dialer: net.Dialer{Timeout: s.options.Dial, KeepAliveConfig: keepAlive}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.forwarder = tcp.NewForwarder(s.net, largestBuffer, s.options.MaxTCP, c.connect)
	return c
}

// packet takes the packets that belong to no connection of gVisor's. What it does not
// take gVisor answers with a reset.
func (c *connections) packet(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	raw := pkt.TransportHeader().Slice()
	if flags := header.TCP(raw).Flags(); !flags.Contains(header.TCPFlagSyn) || flags.Contains(header.TCPFlagAck) {
		return false
	}
	dst := addrPort(id.LocalAddress, id.LocalPort)
	if dst.Addr() == gateway {
		return false
	}
	quote := quoted(header.IPv4(pkt.NetworkHeader().Slice()), raw)
	if !c.s.policy.Allows(dst.Addr()) {
		c.s.stats.denied.Add(1)
		c.s.link.refuse(quote, prohibited)
		return true
	}
	switch c.reserve(id, quote) {
	case full:
		c.s.stats.full.Add(1)
		return false
	case reserved:
		if !c.forwarder.HandlePacket(id, pkt) {
			c.release(id)
			return false
		}
	}
	return true
}

type place int

const (
	reserved place = iota
	taken          // the packet is sent again, or the last connection is still ending: the guest will repeat it
	full
)

// reserve takes a place for a connection.
func (c *connections) reserve(id stack.TransportEndpointID, quote []byte) place {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.open[id]; again {
		return taken
	}
	if c.closed || len(c.open) >= c.s.options.MaxTCP {
		return full
	}
	c.open[id] = &opening{quote: quote}
	c.running.Add(1)
	return reserved
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// connect serves one connection, from the first packet to the end.
func (c *connections) connect(r *tcp.ForwarderRequest) {
	id := r.ID()
	defer c.release(id)
	out, err := c.dial(addrPort(id.LocalAddress, id.LocalPort))
	if err != nil {
		c.refuse(r, err)
		return
	}
	defer out.Close()
	p, err := newPipe(out)
	if err != nil {
		r.Complete(true)
		return
	}
	ep, failed := r.CreateEndpoint(&p.queue)
	r.Complete(false)
	if failed != nil {
		c.reset(id)
		_ = out.SetLinger(0) // the guest went away: tell the server the same
		return
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.pipes.Add(1)
	}
	c.mu.Unlock()
	if closed {
		ep.Abort()
		return
	}
	defer c.pipes.Done()
	c.s.stats.connections.Add(1)
	c.prepare(ep)
	p.ep = ep
	p.run(c.ctx)
}

// greeted keeps the answer to a guest's first packet.
func (c *connections) greeted(ip header.IPv4, segment header.TCP, frame []byte) {
	id := stack.TransportEndpointID{LocalAddress: ip.SourceAddress(), LocalPort: segment.SourcePort(),
		RemoteAddress: ip.DestinationAddress(), RemotePort: segment.DestinationPort()}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.open[id]
	if o == nil {
		return
	}
	o.greeting = frame
	if c.closed { // too late for close to end it; gVisor holds the endpoint's lock now
		c.running.Go(c.abort)
	}
}

// abort ends everything that gVisor has.
func (c *connections) abort() {
	for _, ep := range c.s.net.RegisteredEndpoints() {
		ep.Abort()
	}
}

// reset tells a guest that the connection which it was greeted for does not come about.
// gVisor ends handshakes silently, and a guest for which its own has succeeded would wait
// for ever.
func (c *connections) reset(id stack.TransportEndpointID) {
	c.mu.Lock()
	greeting := c.open[id].greeting
	c.mu.Unlock()
	if greeting != nil {
		c.s.link.write(vnetHeader{}, resetOf(greeting))
	}
}

// resetOf returns the frame that resets the connection which a frame greets.
func resetOf(greeting []byte) []byte {
	const ipAt = header.EthernetMinimumSize
	tcpAt := ipAt + int(header.IPv4(greeting[ipAt:]).HeaderLength())
	frame := slices.Clone(greeting[:tcpAt+header.TCPMinimumSize])
	ip, segment := header.IPv4(frame[ipAt:]), header.TCP(frame[tcpAt:])
	ip.SetTotalLength(uint16(len(ip)))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	segment.SetSequenceNumber(segment.SequenceNumber() + 1) // the greeting was one
	segment.SetDataOffset(header.TCPMinimumSize)
	segment.SetFlags(uint8(header.TCPFlagRst | header.TCPFlagAck))
	segment.SetWindowSize(0)
	segment.SetChecksum(0)
	sum := header.PseudoHeaderChecksum(tcp.ProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), header.TCPMinimumSize)
	segment.SetChecksum(^segment.CalculateChecksum(sum))
	return frame
}

func (c *connections) release(id stack.TransportEndpointID) {
	c.mu.Lock()
	delete(c.open, id)
	c.mu.Unlock()
	c.running.Done()
}

func (c *connections) dial(dst netip.AddrPort) (*net.TCPConn, error) {
	if err := c.s.route(dst.Addr()); err != nil {
		return nil, err
	}
	conn, err := c.dialer.DialContext(c.ctx, "tcp4", dst.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// refuse tells a guest why a connection does not come about.
func (c *connections) refuse(r *tcp.ForwarderRequest, err error) {
	why, known := reason(err)
	if errors.Is(err, errDenied) {
		c.s.stats.denied.Add(1)
	}
	if !known || why == noPort {
		r.Complete(true)
		return
	}
	c.mu.Lock()
	quote := c.open[r.ID()].quote
	c.mu.Unlock()
	c.s.link.refuse(quote, why)
	r.Complete(false)
}

// reason returns what a failure is in ICMP's words.
func reason(err error) (refusal, bool) {
	switch {
	case errors.Is(err, errDenied), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return prohibited, true
	case errors.Is(err, unix.ECONNREFUSED):
		return noPort, true
	case errors.Is(err, unix.ENETUNREACH):
		return noNetwork, true
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EHOSTDOWN):
		return noHost, true
	}
	var late net.Error
	return noHost, errors.As(err, &late) && late.Timeout()
}

// prepare sets what a new connection to a guest needs.
func (c *connections) prepare(ep tcpip.Endpoint) {
	o := ep.SocketOptions()
	o.SetDelayOption(false)
	o.SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepAlive.Idle), tcpip.KeepaliveIntervalOption(keepAlive.Interval)
	_, _, _ = ep.SetSockOpt(&idle), ep.SetSockOpt(&interval), ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAlive.Count)
	size := int64(min(largestBuffer, max(smallestBuffer, budget/c.count())))
	o.SetSendBufferSize(size, true)
	o.SetReceiveBufferSize(size, true)
}

// close resets every connection and waits until none is left.
func (c *connections) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.pipes.Wait()  // what gVisor closes, a pipe must not use any more
	c.s.net.Close() // ends handshakes, which do not know ctx
	c.running.Wait()
}
