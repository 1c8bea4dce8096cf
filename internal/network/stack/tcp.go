package stack

import (
	"errors"
	"fmt"
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

// keepAlive finds out that a guest was killed or that a server vanished, so that dead
// connections do not fill the table. It is rare: each probe wakes the process. Towards
// servers, the kernel says how often it probes, since a call for each setting would cost
// every connection.
var keepAlive = struct {
	Idle, Interval time.Duration
	Count          int
}{10 * time.Minute, 30 * time.Second, 6}

// timeWait is short because the link loses and reorders nothing, and each connection that
// waits takes memory that nobody counts.
const timeWait = 10 * time.Millisecond

func tuneTCP(s *stack.Stack) error {
	sack, moderate, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(false), tcpip.TCPTimeWaitTimeoutOption(timeWait)
	// The defaults are those of connections to the gateway; see buffers for others.
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 1, Default: gatewayBuffer, Max: max(gatewayBuffer, buffers[0])}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: gatewayBuffer, Max: max(gatewayBuffer, buffers[0])}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &wait, &send, &receive} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set an option of TCP: %s", err)
		}
	}
	return nil
}

// connections are the guests' TCP connections to the outside.
type connections struct {
	s          *Stack
	forwarders []*tcp.Forwarder // one for each size in buffers
	places     *shares          // of all connections
	room       *shares          // for buffers, in bytes
	workers    *workers
	running    sync.WaitGroup // all of open
	pipes      sync.WaitGroup // those of open that are connected
	sockets    *sockets
	closing    chan struct{} // closed when all are to end

	mu     sync.Mutex
	open   map[stack.TransportEndpointID]*opening
	closed bool
}

// opening is a connection, and what is kept of its first packets until it is connected.
type opening struct {
	guest    netip.Addr
	buffer   int    // index in buffers
	quote    []byte // of the guest's
	greeting []byte // the frame that answered it

	pipe *pipe // once it is connected
}

func newConnections(s *Stack, sockets *sockets) *connections {
	c := &connections{s: s, sockets: sockets, closing: make(chan struct{}), workers: newWorkers(), open: map[stack.TransportEndpointID]*opening{},
		places: newShares(s.options.MaxTCP), room: newShares(roomForBuffers)}
	for _, size := range buffers {
		c.forwarders = append(c.forwarders, tcp.NewForwarder(s.net, size, s.options.MaxTCP, func(r *tcp.ForwarderRequest) {
			c.workers.run(func() { c.connect(r) })
		}))
	}
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
	o, free := c.reserve(id, quote)
	switch free {
	case full:
		c.s.stats.full.Add(1)
		return false
	case reserved:
		if !c.forwarders[o.buffer].HandlePacket(id, pkt) {
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
func (c *connections) reserve(id stack.TransportEndpointID, quote []byte) (*opening, place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.open[id]; again {
		return nil, taken
	}
	o := &opening{guest: addrPort(id.RemoteAddress, id.RemotePort).Addr(), quote: quote}
	if c.closed || !c.places.take(o.guest, 1) {
		return nil, full
	}
	o.buffer = chooseBuffer(c.room, o.guest)
	c.open[id] = o
	c.running.Add(1)
	return o, reserved
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
	c.mu.Lock()
	o := c.open[id]
	c.mu.Unlock()
	out, err := c.dial(addrPort(id.LocalAddress, id.LocalPort))
	if err != nil {
		c.refuse(r, err)
		return
	}
	defer out.close()
	p := newPipe(out, buffers[o.buffer])
	ep, failed := r.CreateEndpoint(&p.queue)
	r.Complete(false)
	if failed != nil {
		c.reset(id)
		out.reset() // the guest went away: tell the server the same
		return
	}
	p.ep = ep
	if !c.connected(o, p) {
		ep.Abort()
		return
	}
	defer c.pipes.Done()
	c.s.stats.connections.Add(1)
	c.prepare(ep, buffers[o.buffer])
	p.run()
}

// connected notes that a connection has come about, unless all are to end.
func (c *connections) connected(o *opening, p *pipe) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.pipes.Add(1)
	o.pipe, o.quote, o.greeting = p, nil, nil
	return true
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
	o := c.open[id]
	delete(c.open, id)
	c.mu.Unlock()
	c.places.give(o.guest, 1)
	c.room.give(o.guest, roomOf(o.buffer))
	c.running.Done()
}

// dial connects to the outside.
func (c *connections) dial(dst netip.AddrPort) (*socket, error) {
	if err := c.s.route(dst.Addr()); err != nil {
		return nil, err
	}
	return c.sockets.connect(dst, newBell(), c.s.options.Dial, c.closing)
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
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EHOSTDOWN), errors.Is(err, unix.ETIMEDOUT), errors.Is(err, errLate):
		return noHost, true
	}
	return noHost, false
}

// prepare sets what a new connection to a guest needs.
func (c *connections) prepare(ep tcpip.Endpoint, size int) {
	o := ep.SocketOptions()
	o.SetDelayOption(false)
	o.SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepAlive.Idle), tcpip.KeepaliveIntervalOption(keepAlive.Interval)
	_, _, _ = ep.SetSockOpt(&idle), ep.SetSockOpt(&interval), ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAlive.Count)
	o.SetSendBufferSize(int64(size), true)
}

// close resets every connection and waits until none is left.
func (c *connections) close() {
	c.mu.Lock()
	c.closed = true
	var pipes []*pipe
	for _, o := range c.open {
		if o.pipe != nil {
			pipes = append(pipes, o.pipe)
		}
	}
	close(c.closing)
	c.mu.Unlock()
	for _, p := range pipes {
		p.reset()
	}
	c.pipes.Wait()  // what gVisor closes, a pipe must not use any more
	c.s.net.Close() // ends handshakes, which nothing else does
	c.running.Wait()
	c.workers.close()
	c.sockets.close()
}
