// Package stack is the network of guests of a plain user: a TCP/IP stack in an ordinary
// process. Packets that guests send outside come out of a TAP, whose other end is in the
// user's network namespace, and go on as sockets of this process; what these receive goes
// back as packets. It owns what guests may reach outside, the limits on what they may
// use, and the answers when something cannot be reached.
//
// It does not own the TAP, the namespace or the rules there (packages apply and
// namespace), nor names (package dns), which it only gives a place to listen. It is the
// one importer of gVisor, whose TCP, IP reassembly and sockets it assembles; UDP flows,
// echo requests and ICMP errors are its own.
package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"banger/internal/network"
)

// Options are what a Stack may differ in. Zero values are the defaults.
type Options struct {
	MTU    int          // of the uplink; network.UplinkMTU by default
	Guests netip.Prefix // the instance's own subnet, which is not outside
	Log    *slog.Logger // nothing is logged by default

	MaxTCP  int           // connections at once, 4096 by default, of which one guest gets half; more are refused
	MaxUDP  int           // UDP flows and echo requesters at once, half as many by default; a guest's oldest makes room
	Dial    time.Duration // after which a connection that does not come about is given up, 10 s by default
	Replied time.Duration // a UDP flow that was answered is idle for so long at its end, 2 min by default
	Asking  time.Duration // the same of one that was not answered, or that is an echo, 30 s by default
	Query   time.Duration // the same of one to port 53, 10 s by default
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	if o.MTU == 0 {
		o.MTU = network.UplinkMTU
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxTCP == 0 {
		o.MaxTCP = min(4096, descriptors()/2)
	}
	if o.MaxUDP == 0 {
		o.MaxUDP = o.MaxTCP / 2
	}
	def(&o.Dial, 10*time.Second)
	def(&o.Replied, 2*time.Minute)
	def(&o.Asking, 30*time.Second)
	def(&o.Query, 10*time.Second)
	return o
}

// descriptors returns how many this process may have.
func descriptors() int {
	var most unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &most) != nil {
		return 1024
	}
	return int(min(most.Cur, 1<<20))
}

// Stats is what the stack has done, and does now.
type Stats struct {
	TCP, UDP, Echo       int   // connections, flows and echo requesters now
	Connections, Flows   int64 // the same since the start
	Denied               int64 // refused because of the destination
	Full                 int64 // connections refused and flows ended because of a limit
	Lost                 int64 // frames that the uplink did not take, or of guests that fill the memory
	FromGuests, ToGuests int64 // bytes of IP packets
}

type counters struct {
	connections, flows, denied, full, lost, fromGuests, toGuests atomic.Int64
}

// Stack serves one uplink.
type Stack struct {
	options Options
	policy  Policy
	link    *link
	net     *stack.Stack
	routes  *routes
	tcp     *connections
	flows   *flows
	stats   counters
	reading sync.WaitGroup
	close   sync.Once
}

const nic = 1

// New takes a TAP over and makes a stack of it, which serves while Run runs. The TAP
// is faster if it was opened with IFF_VNET_HDR. The caller calls Close in the end.
func New(tap *os.File, options Options) (*Stack, error) {
	s := &Stack{options: options.withDefaults()}
	s.policy.Guests = s.options.Guests
	var err error
	if s.link, err = openLink(tap, s.options.MTU, &s.stats); err != nil {
		return nil, err
	}
	s.link.other = func(ip header.IPv4) {
		s.link.refuse(quoted(ip[:header.IPv4MinimumSize], nil), noProtocol)
	}
	if s.routes, err = openRoutes(); err != nil {
		s.link.close()
		return nil, err
	}
	if s.flows, err = openFlows(s); err != nil {
		s.routes.close()
		s.link.close()
		return nil, err
	}
	s.net = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}), // so that it is refused, not dropped
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	outside, err := openSockets()
	if err != nil {
		s.flows.close()
		s.net.Destroy()
		s.routes.close()
		s.link.close()
		return nil, err
	}
	s.tcp = newConnections(s, outside)
	s.link.greeted = s.tcp.greeted
	s.reading.Go(s.link.greetings)
	if err := s.assemble(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// assemble makes gVisor's stack take packets for every address and send them from every
// address.
func (s *Stack) assemble() error {
	if err := s.net.CreateNIC(nic, s.link); err != nil {
		return fmt.Errorf("create the stack's card: %s", err)
	}
	addr := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(gateway), PrefixLen: network.UplinkSubnet.Bits()}}
	if err := s.net.AddProtocolAddress(nic, addr, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("set the stack's address: %s", err)
	}
	s.net.SetSpoofing(nic, true)
	s.net.SetPromiscuousMode(nic, true)
	s.net.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	if err := tuneTCP(s.net); err != nil {
		return err
	}
	s.net.SetTransportProtocolHandler(tcp.ProtocolNumber, s.tcp.packet)
	s.net.SetTransportProtocolHandler(udp.ProtocolNumber, s.flows.datagram)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber4, s.flows.echo)
	return nil
}

// Run serves until ctx is done or Close is called; then it returns nil. It returns an
// error if the uplink's device is gone. It may be called once.
func (s *Stack) Run(ctx context.Context) error {
	s.reading.Add(1)
	defer s.reading.Done()
	defer context.AfterFunc(ctx, s.link.close)()
	return s.link.run()
}

// Close ends every flow; guests see their connections reset. It returns when nothing of
// the stack runs any more, and may be called again.
func (s *Stack) Close() {
	s.close.Do(func() {
		s.tcp.close() // while the link still carries the resets
		s.link.close()
		s.reading.Wait()
		s.flows.close()
		s.net.Destroy()
		s.routes.close()
	})
}

// Listen returns a listener for TCP connections of guests to a port of the gateway.
func (s *Stack) Listen(port uint16) (net.Listener, error) {
	l, err := gonet.ListenTCP(s.net, s.gatewayPort(port), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", netip.AddrPortFrom(gateway, port), err)
	}
	return l, nil
}

// ListenPacket returns a socket for UDP datagrams of guests to a port of the gateway.
func (s *Stack) ListenPacket(port uint16) (net.PacketConn, error) {
	at := s.gatewayPort(port)
	c, err := gonet.DialUDP(s.net, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", netip.AddrPortFrom(gateway, port), err)
	}
	return c, nil
}

func (s *Stack) gatewayPort(port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: address(gateway), Port: port}
}

// Stats returns the numbers of this moment.
func (s *Stack) Stats() Stats {
	st := Stats{TCP: s.tcp.count(), Connections: s.stats.connections.Load(), Flows: s.stats.flows.Load(),
		Denied: s.stats.denied.Load(), Full: s.stats.full.Load(), Lost: s.stats.lost.Load(),
		FromGuests: s.stats.fromGuests.Load(), ToGuests: s.stats.toGuests.Load()}
	st.UDP, st.Echo = s.flows.count()
	return st
}

var errDenied = errors.New("this destination is closed")

// route asks the host whether a destination that the policy allows leads outside.
func (s *Stack) route(dst netip.Addr) error {
	r, err := s.routes.to(dst)
	if err != nil {
		return err
	}
	if !s.policy.Leads(r) {
		return errDenied
	}
	return nil
}
