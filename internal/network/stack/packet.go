package stack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A refusal is the code of an ICMP message "destination unreachable".
type refusal uint8

const (
	noNetwork  = refusal(header.ICMPv4NetUnreachable)
	noHost     = refusal(header.ICMPv4HostUnreachable)
	noProtocol = refusal(header.ICMPv4ProtoUnreachable)
	noPort     = refusal(header.ICMPv4PortUnreachable)
	prohibited = refusal(header.ICMPv4AdminProhibited)
)

const ttl = 64

// quoted is as much of a refused packet as a refusal quotes: the IP header and 8 bytes
// more, by which the asker finds its socket.
func quoted(ip header.IPv4, transport []byte) []byte {
	q := append(make([]byte, 0, len(ip)+8), ip...)
	return append(q, transport[:min(8, len(transport))]...)
}

// quote makes up what quoted would return of a packet that is gone already.
func quote(protocol uint8, src, dst netip.AddrPort, length int) []byte {
	q := make([]byte, header.IPv4MinimumSize+8)
	putIP(q, header.IPv4Fields{Protocol: protocol, TotalLength: uint16(header.IPv4MinimumSize + 8 + length), SrcAddr: address(src.Addr()), DstAddr: address(dst.Addr())})
	udp := q[header.IPv4MinimumSize:]
	if protocol == uint8(header.ICMPv4ProtocolNumber) {
		udp[0] = byte(header.ICMPv4Echo)
		binary.BigEndian.PutUint16(udp[4:], src.Port())
		return q
	}
	binary.BigEndian.PutUint16(udp[0:], src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(8+length))
	return q
}

// refuse tells the sender of a packet, which is quoted, why it went nowhere. Errors
// are never answered to errors, fragments, or what was meant for many.
func (l *link) refuse(quoted []byte, why refusal) {
	ip := header.IPv4(quoted)
	dst := netip.AddrFrom4(ip.DestinationAddress().As4())
	if ip.FragmentOffset() != 0 || dst.IsMulticast() || dst == broadcast {
		return
	}
	msg := make([]byte, header.ICMPv4MinimumSize+len(quoted))
	msg[0], msg[1] = byte(header.ICMPv4DstUnreachable), byte(why)
	copy(msg[header.ICMPv4MinimumSize:], quoted)
	binary.BigEndian.PutUint16(msg[2:], ^checksum.Checksum(msg, 0))
	l.send(uint8(header.ICMPv4ProtocolNumber), gateway, netip.AddrFrom4(ip.SourceAddress().As4()), msg)
}

// sendUDP sends a datagram to a guest.
func (l *link) sendUDP(src, dst netip.AddrPort, datagram []byte) {
	// The header is in front of the payload, in the same slice: see flows.
	udp := header.UDP(datagram)
	udp.Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(datagram))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(src.Addr()), address(dst.Addr()), uint16(len(datagram)))
	sum = ^checksum.Checksum(datagram, sum)
	if sum == 0 {
		sum = 0xffff // 0 would mean: without a checksum
	}
	udp.SetChecksum(sum)
	l.send(uint8(header.UDPProtocolNumber), src.Addr(), dst.Addr(), datagram)
}

// sendEchoReply sends the reply to an echo request, or to one of the outside's as it
// came, with the identifier that the guest gave.
func (l *link) sendEchoReply(src netip.Addr, dst netip.AddrPort, message []byte) {
	message[0], message[1] = byte(header.ICMPv4EchoReply), 0
	binary.BigEndian.PutUint16(message[4:], dst.Port())
	binary.BigEndian.PutUint16(message[2:], 0)
	binary.BigEndian.PutUint16(message[2:], ^checksum.Checksum(message, 0))
	l.send(uint8(header.ICMPv4ProtocolNumber), src, dst.Addr(), message)
}

// send sends an IP packet to a guest, in fragments if it is larger than the MTU.
func (l *link) send(protocol uint8, src, dst netip.Addr, payload []byte) {
	id := uint16(l.ident.Add(1))
	most := (int(l.mtu) - header.IPv4MinimumSize) &^ 7
	for at := 0; ; at += most {
		part := payload[at:]
		flags := uint8(0)
		if len(part) > int(l.mtu)-header.IPv4MinimumSize {
			part, flags = part[:most], header.IPv4FlagMoreFragments
		}
		var head [header.EthernetMinimumSize + header.IPv4MinimumSize]byte
		header.Ethernet(head[:]).Encode(&header.EthernetFields{SrcAddr: ourMAC, DstAddr: l.peerMAC(), Type: header.IPv4ProtocolNumber})
		putIP(head[header.EthernetMinimumSize:], header.IPv4Fields{Protocol: protocol, TotalLength: uint16(header.IPv4MinimumSize + len(part)),
			ID: id, Flags: flags, FragmentOffset: uint16(at), SrcAddr: address(src), DstAddr: address(dst)})
		l.stats.toGuests.Add(int64(header.IPv4MinimumSize + len(part)))
		l.write(vnetHeader{}, head[:], part)
		if flags == 0 {
			return
		}
	}
}

func putIP(raw []byte, fields header.IPv4Fields) {
	fields.TTL = ttl
	ip := header.IPv4(raw)
	ip.Encode(&fields)
	ip.SetChecksum(^ip.CalculateChecksum())
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4(a.As4()), port)
}
