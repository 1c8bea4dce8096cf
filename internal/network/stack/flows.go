package stack

import (
	"container/list"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// key is what makes a flow: the guest's end and the outside's. For an echo the port of
// the guest's is the identifier.
type key struct {
	protocol uint8
	src, dst netip.AddrPort
}

// A flow is one socket that is connected to the outside's end, so that the kernel drops
// what others send and reports ICMP errors.
type flow struct {
	key  key
	fd   int
	used time.Time
	in   *class
	at   *list.Element // in in.idle
	size int           // of the last datagram, which an error quotes
}

// A class is the flows that may be idle for the same time, the longest idle first.
type class struct {
	limit time.Duration
	idle  list.List
}

// flows are UDP flows and echo requesters. One goroutine waits for all their sockets, and
// one timer runs while there are any: a flow costs a socket and a few hundred bytes.
type flows struct {
	s       *Stack
	epoll   int
	wake    int // an eventfd that ends the goroutine
	waiting sync.WaitGroup

	mu     sync.Mutex // also held while a flow's socket is used: its number may be another's after that
	places *shares    // of all flows
	all    map[key]*flow
	byFD   map[int32]*flow
	asking class // not answered, and echoes: these make room first
	query  class // to port 53
	reply  class // answered
	timer  *time.Timer
	closed bool
	noPing bool // the host forbids echo sockets, which was logged
}

func openFlows(s *Stack) (*flows, error) {
	f := &flows{s: s, places: newShares(s.options.MaxUDP), all: map[key]*flow{}, byFD: map[int32]*flow{},
		asking: class{limit: s.options.Asking}, query: class{limit: s.options.Query}, reply: class{limit: s.options.Replied}}
	f.timer = time.AfterFunc(time.Hour, f.expire)
	f.timer.Stop()
	var err error
	if f.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	if f.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(f.epoll)
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	if err := f.watch(f.wake); err != nil {
		unix.Close(f.wake)
		unix.Close(f.epoll)
		return nil, err
	}
	f.waiting.Add(1)
	go f.wait()
	return f, nil
}

func (f *flows) watch(fd int) error {
	return unix.EpollCtl(f.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (f *flows) close() {
	f.mu.Lock()
	f.closed = true
	f.timer.Stop()
	for _, fl := range f.all {
		f.end(fl)
	}
	f.mu.Unlock()
	_, _ = unix.Write(f.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	f.waiting.Wait()
	unix.Close(f.wake)
	unix.Close(f.epoll)
}

func (f *flows) count() (udp, echo int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.all {
		if k.protocol == unix.IPPROTO_ICMP {
			echo++
		}
	}
	return len(f.all) - echo, echo
}

// datagram takes the UDP datagrams that no socket of the gateway's takes.
func (f *flows) datagram(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	k := key{unix.IPPROTO_UDP, addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)}
	payload := pkt.Data().AsRange().ToSlice()
	// The length is the sender's claim; what is behind it is no payload.
	if claim := int(header.UDP(pkt.TransportHeader().Slice()).Length()) - header.UDPMinimumSize; claim >= 0 && claim < len(payload) {
		payload = payload[:claim]
	}
	if k.dst.Addr() == gateway {
		f.s.link.refuse(quoted(header.IPv4(pkt.NetworkHeader().Slice()), pkt.TransportHeader().Slice()), noPort)
		return true
	}
	f.out(k, payload)
	return true
}

// echo takes ICMP messages; only requests come here (see link.receive).
func (f *flows) echo(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	h := header.ICMPv4(pkt.TransportHeader().Slice())
	if h.Type() != header.ICMPv4Echo {
		return true
	}
	src, dst := netip.AddrFrom4(id.RemoteAddress.As4()), netip.AddrFrom4(id.LocalAddress.As4())
	message := append(append(make([]byte, 0, len(h)+pkt.Data().Size()), h...), pkt.Data().AsRange().ToSlice()...)
	if dst == gateway {
		f.s.link.sendEchoReply(gateway, netip.AddrPortFrom(src, h.Ident()), message)
		return true
	}
	f.out(key{unix.IPPROTO_ICMP, netip.AddrPortFrom(src, h.Ident()), netip.AddrPortFrom(dst, 0)}, message)
	return true
}

// out sends a datagram of a guest, and begins a flow if there is none.
func (f *flows) out(k key, payload []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	fl := f.all[k]
	if fl == nil {
		var err error
		if fl, err = f.begin(k); err != nil {
			f.fail(k, len(payload), err)
			return
		}
	}
	f.touch(fl, fl.in)
	fl.size = len(payload)
	err := send(fl.fd, payload)
	switch err {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EMSGSIZE:
		// That was said about an earlier datagram; this one has not been sent.
		f.fail(k, len(payload), err)
		err = send(fl.fd, payload)
	}
	if err == unix.EPERM || err == unix.EACCES {
		f.fail(k, len(payload), err)
	}
}

func send(fd int, payload []byte) error {
	_, err := unix.SendmsgN(fd, payload, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return err
}

// fail tells a guest why a datagram went nowhere. What is not about the destination is
// not said: it is lost, as on a full link.
func (f *flows) fail(k key, size int, err error) {
	if err == errDenied {
		f.s.stats.denied.Add(1)
	}
	if why, known := reason(err); known {
		f.s.link.refuse(quote(k.protocol, k.src, k.dst, size), why)
	}
}

// begin makes room for a flow and opens its socket.
func (f *flows) begin(k key) (*flow, error) {
	if !f.s.policy.Allows(k.dst.Addr()) {
		return nil, errDenied
	}
	if err := f.s.route(k.dst.Addr()); err != nil {
		return nil, err
	}
	fd, err := f.open(k)
	if err != nil {
		return nil, err
	}
	if !f.place(k.src.Addr()) {
		unix.Close(fd)
		return nil, errNoSocket
	}
	fl := &flow{key: k, fd: fd, in: &f.asking}
	if k.protocol == unix.IPPROTO_UDP && k.dst.Port() == 53 {
		fl.in = &f.query
	}
	fl.used = time.Now()
	fl.at = fl.in.idle.PushBack(fl)
	f.all[k], f.byFD[int32(fd)] = fl, fl
	f.s.stats.flows.Add(1)
	if len(f.all) == 1 {
		f.schedule()
	}
	return fl, nil
}

var errNoPing = fmt.Errorf("the host forbids echo requests")

func (f *flows) open(k key) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(k.protocol))
	if err != nil && k.protocol == unix.IPPROTO_ICMP {
		if !f.noPing {
			f.s.options.Log.Info("guests cannot ping hosts outside: net.ipv4.ping_group_range excludes this process", "err", err)
		}
		f.noPing = true
		return -1, errNoPing
	}
	if err != nil {
		return -1, errNoSocket
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1) // ICMP errors of every kind
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(k.dst.Port()), Addr: k.dst.Addr().As4()}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err := f.watch(fd); err != nil {
		unix.Close(fd)
		return -1, errNoSocket
	}
	return fd, nil
}

// errNoSocket is a shortage of ours, of which a guest can only see a loss.
var errNoSocket = fmt.Errorf("no socket for a flow")

// place takes a place for a guest's flow. A guest that has as many as it may loses the one
// that is missed the least.
func (f *flows) place(guest netip.Addr) bool {
	if f.places.take(guest, 1) {
		return true
	}
	f.s.stats.full.Add(1)
	for _, c := range []*class{&f.asking, &f.query, &f.reply} {
		for at := c.idle.Front(); at != nil; at = at.Next() {
			if fl := at.Value.(*flow); fl.key.src.Addr() == guest {
				f.end(fl)
				f.places.swap(guest, 1)
				return true
			}
		}
	}
	return false
}

func (f *flows) end(fl *flow) {
	fl.in.idle.Remove(fl.at)
	f.places.give(fl.key.src.Addr(), 1)
	delete(f.all, fl.key)
	delete(f.byFD, int32(fl.fd))
	unix.Close(fl.fd) // also leaves epoll
}

// touch makes a flow the last used of a class.
func (f *flows) touch(fl *flow, c *class) {
	fl.used = time.Now()
	if fl.in == c {
		c.idle.MoveToBack(fl.at)
		return
	}
	fl.in.idle.Remove(fl.at)
	fl.in, fl.at = c, c.idle.PushBack(fl)
}

// schedule sets the timer to when the next flow may end. Without flows it does not run.
func (f *flows) schedule() {
	var next time.Time
	for _, c := range []*class{&f.asking, &f.query, &f.reply} {
		if first := c.idle.Front(); first != nil {
			if at := first.Value.(*flow).used.Add(c.limit); next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	if !next.IsZero() && !f.closed {
		f.timer.Reset(time.Until(next))
	}
}

// expire ends what has been idle for too long.
func (f *flows) expire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, c := range []*class{&f.asking, &f.query, &f.reply} {
		for first := c.idle.Front(); first != nil && !now.Before(first.Value.(*flow).used.Add(c.limit)); first = c.idle.Front() {
			f.end(first.Value.(*flow))
		}
	}
	f.schedule()
}

// wait hands what flows' sockets receive to guests.
func (f *flows) wait() {
	defer f.waiting.Done()
	events := make([]unix.EpollEvent, 64)
	buf := make([]byte, header.UDPMinimumSize+65535)
	for {
		n, err := unix.EpollWait(f.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == f.wake {
				return
			}
			f.in(e.Fd, buf)
			if e.Events&unix.EPOLLERR != 0 {
				f.drain(e.Fd)
			}
		}
	}
}

// in takes a few datagrams from a socket; epoll reports it again if it has more.
func (f *flows) in(fd int32, buf []byte) {
	for range 16 {
		k, n, ok := f.receive(fd, buf)
		if !ok {
			return
		}
		if k.protocol == unix.IPPROTO_ICMP {
			f.s.link.sendEchoReply(k.dst.Addr(), k.src, buf[header.UDPMinimumSize:][:n])
			continue
		}
		f.s.link.sendUDP(k.dst, k.src, buf[:header.UDPMinimumSize+n])
	}
}

// receive reads one datagram into buf, behind room for a UDP header.
func (f *flows) receive(fd int32, buf []byte) (key, int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl := f.byFD[fd]
	if fl == nil {
		return key{}, 0, false // it ended meanwhile
	}
	n, _, err := unix.Recvfrom(fl.fd, buf[header.UDPMinimumSize:], unix.MSG_DONTWAIT)
	if err != nil {
		if err != unix.EAGAIN && err != unix.EINTR {
			f.fail(fl.key, fl.size, err)
		}
		return key{}, 0, false
	}
	if fl.key.protocol == unix.IPPROTO_ICMP && (n < header.ICMPv4MinimumSize || buf[header.UDPMinimumSize] != byte(header.ICMPv4EchoReply)) {
		return key{}, 0, false
	}
	class := fl.in
	if class == &f.asking && fl.key.protocol == unix.IPPROTO_UDP {
		class = &f.reply
	}
	f.touch(fl, class)
	return fl.key, n, true
}

// drain empties a socket's queue of errors, which epoll would report for ever.
func (f *flows) drain(fd int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byFD[fd] == nil {
		return
	}
	var b [1]byte
	for {
		if _, _, _, _, err := unix.Recvmsg(int(fd), b[:], nil, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}
