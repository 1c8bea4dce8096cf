package stack

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// ourMAC is the stack's address on the uplink. It is local and unicast.
const ourMAC = tcpip.LinkAddress("\x02\xb9\x00\x00\x00\x01")

// link is the TAP as gVisor's link endpoint. Its peer is one kernel, so it needs no
// neighbours: it answers ARP and sends everything to where frames come from.
//
// gVisor's own endpoint (fdbased) knows no segmentation offload on a TAP.
type link struct {
	tap     *os.File
	fd      int
	mtu     uint32
	vnet    int // size of the header in front of each frame; 0 without offloads
	stats   *counters
	held    *shares       // what frames of guests take, in bytes
	peer    atomic.Uint64 // the kernel's MAC, in the lower 48 bits; 0 is not known yet
	ident   atomic.Uint32 // of IP packets that we make ourselves
	mu      sync.RWMutex  // held while fd is written to
	closed  bool
	deliver stack.NetworkDispatcher
	other   func(ip header.IPv4)                                   // a packet of a protocol that is not forwarded
	greeted func(ip header.IPv4, segment header.TCP, frame []byte) // a greeting
	greet   chan []byte                                            // what greetings writes
	done    chan struct{}                                          // closed with the link
}

// openLink takes the TAP over.
func openLink(tap *os.File, mtu int, stats *counters) (*link, error) {
	defer tap.Close()
	fd, err := unix.FcntlInt(tap.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the uplink's descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the uplink's descriptor non-blocking: %w", err)
	}
	l := &link{mtu: uint32(mtu), fd: fd, stats: stats, held: newShares(mostHeld), vnet: offload(fd), greet: make(chan []byte, 256), done: make(chan struct{})}
	l.tap = os.NewFile(uintptr(fd), tap.Name()) // non-blocking: Go's poller waits for it
	return l, nil
}

// offload switches segmentation and checksum offload on and returns the size of the
// header that each frame has then. A TAP that was opened without IFF_VNET_HDR has none,
// and neither has what a test uses in a TAP's place.
func offload(fd int) int {
	ifr, err := unix.NewIfreq("")
	if err != nil || unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr) != nil || ifr.Uint16()&unix.IFF_VNET_HDR == 0 {
		return 0
	}
	size, err := unix.IoctlGetUint32(fd, unix.TUNGETVNETHDRSZ)
	if err != nil || size > maxVnet {
		return 0
	}
	// Without these the kernel cuts and sums each packet before we read it: slower,
	// and not wrong.
	_ = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4)
	return int(size)
}

// maxVnet is the size of the largest header that a kernel may put before a frame.
const maxVnet = 64

// run reads frames until the TAP is closed or its device is gone.
func (l *link) run() error {
	raw, err := l.tap.SyscallConn()
	if err != nil {
		return err
	}
	in := newFrame(l.vnet)
	defer in.release()
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, err := in.read(int(fd))
			switch {
			case err == unix.EAGAIN:
				return false
			case err == unix.EINTR:
			case err != nil || n == 0:
				failed = err
				if n == 0 && err == nil {
					failed = io.EOF
				}
				return true
			case n > l.vnet:
				l.receive(in.take(n))
			}
		}
	})
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return nil
	}
	if err == nil {
		err = failed
	}
	return fmt.Errorf("read from the uplink: %w", err)
}

// receive hands a frame to gVisor, or answers it.
func (l *link) receive(b buffer.Buffer, held int) {
	pkt := l.weigh(b, held)
	if pkt == nil {
		l.stats.lost.Add(1)
		return
	}
	defer pkt.DecRef()
	hdr, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	if !ok {
		return
	}
	eth := header.Ethernet(hdr)
	switch eth.Type() {
	case header.ARPProtocolNumber:
		l.answerARP(pkt)
	case header.IPv4ProtocolNumber:
		ip, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
		if !ok {
			return
		}
		l.learn(eth.SourceAddress())
		l.stats.fromGuests.Add(int64(pkt.Data().Size()))
		switch header.IPv4(ip).TransportProtocol() {
		case header.TCPProtocolNumber, header.UDPProtocolNumber:
		case header.ICMPv4ProtocolNumber:
			if !echoRequest(pkt) {
				return
			}
		default:
			l.other(ip)
			return
		}
		pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
		pkt.RXChecksumValidated = true
		l.mu.RLock()
		deliver := l.deliver
		l.mu.RUnlock()
		if deliver != nil {
			deliver.DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
		}
	}
}

// echoRequest reports whether an ICMP packet is an echo request or a later fragment of
// something. Nothing else is expected from guests, least of all errors that would shrink
// the segments of connections.
func echoRequest(pkt *stack.PacketBuffer) bool {
	raw, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
	if !ok {
		return false
	}
	ip := header.IPv4(raw)
	if ip.FragmentOffset() != 0 {
		return true
	}
	size := int(ip.HeaderLength())
	raw, ok = pkt.Data().PullUp(size + 1)
	return ok && header.ICMPv4Type(raw[size]) == header.ICMPv4Echo
}

// learn remembers where the other end is.
func (l *link) learn(mac tcpip.LinkAddress) {
	var raw [8]byte
	copy(raw[2:], mac)
	if mac[0]&1 == 0 {
		l.peer.Store(binary.BigEndian.Uint64(raw[:]))
	}
}

func (l *link) peerMAC() tcpip.LinkAddress {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], l.peer.Load())
	return tcpip.LinkAddress(raw[2:])
}

// answerARP tells who asks for the gateway, and nobody else, where it is.
func (l *link) answerARP(pkt *stack.PacketBuffer) {
	raw, ok := pkt.Data().PullUp(header.ARPSize)
	ask := header.ARP(raw)
	if !ok || !ask.IsValid() || ask.Op() != header.ARPRequest || [4]byte(ask.ProtocolAddressTarget()) != gateway.As4() {
		return
	}
	asker := tcpip.LinkAddress(ask.HardwareAddressSender())
	l.learn(asker)
	out := make([]byte, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(out).Encode(&header.EthernetFields{SrcAddr: ourMAC, DstAddr: asker, Type: header.ARPProtocolNumber})
	answer := header.ARP(out[header.EthernetMinimumSize:])
	answer.SetIPv4OverEthernet()
	answer.SetOp(header.ARPReply)
	copy(answer.HardwareAddressSender(), ourMAC)
	copy(answer.ProtocolAddressSender(), ask.ProtocolAddressTarget())
	copy(answer.HardwareAddressTarget(), ask.HardwareAddressSender())
	copy(answer.ProtocolAddressTarget(), ask.ProtocolAddressSender())
	l.write(vnetHeader{}, out)
}

// vnetHeader is what the kernel has to know about a frame to cut and sum it: struct
// virtio_net_hdr.
type vnetHeader struct {
	needsSum        bool
	gso             uint8
	headers, size   uint16
	sumStart, sumAt uint16
}

// put writes h in the host's byte order, as a TAP expects it.
func (h vnetHeader) put(raw []byte) {
	clear(raw)
	if h.needsSum {
		raw[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	}
	raw[1] = h.gso
	binary.NativeEndian.PutUint16(raw[2:], h.headers)
	binary.NativeEndian.PutUint16(raw[4:], h.size)
	binary.NativeEndian.PutUint16(raw[6:], h.sumStart)
	binary.NativeEndian.PutUint16(raw[8:], h.sumAt)
}

// write sends one frame. A frame that the TAP does not take (EIO while it is down) is
// lost, as on a wire: what cares sends it again.
func (l *link) write(h vnetHeader, parts ...[]byte) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return
	}
	var vnet [maxVnet]byte
	var storage [12]unix.Iovec
	iovecs := storage[:0]
	if l.vnet > 0 {
		h.put(vnet[:l.vnet])
		iovecs = append(iovecs, unix.Iovec{Base: &vnet[0], Len: uint64(l.vnet)})
	}
	size := 0
	for _, part := range parts {
		if len(part) > 0 {
			iovecs = append(iovecs, unix.Iovec{Base: &part[0], Len: uint64(len(part))})
			size += len(part)
		}
	}
	if _, err := writev(l.fd, iovecs, size); err != nil {
		l.stats.lost.Add(1)
	}
}

// close ends run and every later write.
func (l *link) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.done)
	}
	l.mu.Unlock()
	l.tap.Close()
}

// WritePackets implements stack.LinkWriter. ICMP of gVisor's own is dropped: it answers
// every echo request itself, and package stack says better why something is refused.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for _, pkt := range pkts.AsSlice() {
		ip := header.IPv4(pkt.NetworkHeader().Slice())
		if len(ip) < header.IPv4MinimumSize || ip.TransportProtocol() == header.ICMPv4ProtocolNumber {
			continue
		}
		var h vnetHeader
		if gso := pkt.GSOOptions; l.vnet > 0 && gso.Type == stack.GSOTCPv4 {
			h = vnetHeader{needsSum: gso.NeedsCsum, headers: uint16(pkt.HeaderSize()),
				sumStart: header.EthernetMinimumSize + gso.L3HdrLen, sumAt: gso.CsumOffset}
			if pkt.Data().Size() > int(gso.MSS) {
				h.gso, h.size = unix.VIRTIO_NET_HDR_GSO_TCPV4, gso.MSS
			}
		}
		l.stats.toGuests.Add(int64(pkt.Size() - header.EthernetMinimumSize))
		if greeting(ip, pkt) {
			l.queue(ip, pkt)
			continue
		}
		l.write(h, pkt.AsSlices()...)
	}
	return pkts.Len(), nil
}

// greeting reports whether a packet is the answer to a guest's first one. gVisor sends
// it with the endpoint locked, and the guest's kernel answers before the write returns:
// the goroutine that gets the answer would spin until then. So another one writes it.
func greeting(ip header.IPv4, pkt *stack.PacketBuffer) bool {
	raw := pkt.TransportHeader().Slice()
	return ip.TransportProtocol() == header.TCPProtocolNumber && len(raw) >= header.TCPMinimumSize && header.TCP(raw).Flags().Contains(header.TCPFlagSyn)
}

// queue hands a greeting over. gVisor has summed it: only segments with data are left to
// the kernel.
func (l *link) queue(ip header.IPv4, pkt *stack.PacketBuffer) {
	var frame []byte
	for _, part := range pkt.AsSlices() {
		frame = append(frame, part...)
	}
	l.greeted(ip, header.TCP(pkt.TransportHeader().Slice()), frame)
	select {
	case l.greet <- frame:
	default:
		l.stats.lost.Add(1) // it is sent again
	}
}

// greetings writes greetings until the link is closed.
func (l *link) greetings() {
	for {
		select {
		case frame := <-l.greet:
			l.write(vnetHeader{}, frame)
		case <-l.done:
			return
		}
	}
}

// MTU implements stack.LinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu }

// SetMTU implements stack.LinkEndpoint. The MTU does not change.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint.
func (l *link) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements stack.LinkEndpoint.
func (l *link) LinkAddress() tcpip.LinkAddress { return ourMAC }

// SetLinkAddress implements stack.LinkEndpoint. The address does not change.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint. What comes through the TAP was in this
// host's memory all the time, and its checksum may not even be filled in.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	l.deliver = d
	l.mu.Unlock()
}

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.deliver != nil
}

// Wait implements stack.LinkEndpoint. Stack.Run is the only reader, and Close waits
// for it.
func (l *link) Wait() {}

// ARPHardwareType implements stack.LinkEndpoint.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint.
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: ourMAC, DstAddr: l.peerMAC(), Type: pkt.NetworkProtocolNumber})
}

// ParseHeader implements stack.LinkEndpoint. receive has consumed the header.
func (l *link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements stack.LinkEndpoint. Stack.Close closes the TAP.
func (l *link) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (l *link) SetOnCloseAction(func()) {}

// GSOMaxSize implements stack.GSOEndpoint: an IP packet's length has 16 bits.
func (l *link) GSOMaxSize() uint32 { return 65535 }

// SupportedGSO implements stack.GSOEndpoint.
func (l *link) SupportedGSO() stack.SupportedGSO {
	if l.vnet > 0 {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}
