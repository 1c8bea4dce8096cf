package apply

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Frames as a hostile guest writes them.

func ether(dst, src net.HardwareAddr, kind uint16, payload ...byte) []byte {
	f := append(append([]byte{}, dst...), src...)
	return append(binary.BigEndian.AppendUint16(f, kind), payload...)
}

func tagged(frame []byte, vlan uint16) []byte {
	f := append(append([]byte{}, frame[:12]...), 0x81, 0)
	return append(binary.BigEndian.AppendUint16(f, vlan), frame[12:]...)
}

func ip4(src, dst netip.Addr, proto byte, payload []byte) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return append(p, payload...)
}

func checksum(p []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func ping(text string) []byte {
	p := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, text...)
	binary.BigEndian.PutUint16(p[2:], checksum(p))
	return p
}

func datagram(sport, dport uint16, text string) []byte {
	p := binary.BigEndian.AppendUint16(nil, sport)
	p = binary.BigEndian.AppendUint16(p, dport)
	p = binary.BigEndian.AppendUint16(p, uint16(8+len(text)))
	return append(append(p, 0, 0), text...)
}

func arpPacket(op byte, mac net.HardwareAddr, ip netip.Addr, about netip.Addr, text string) []byte {
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, mac...)
	p = append(append(p, ip.AsSlice()...), make([]byte, 6)...)
	return append(append(p, about.AsSlice()...), text...) // what follows is padding to the network
}

func ip6(src, dst netip.Addr, next byte, payload []byte) []byte {
	p := []byte{0x60, 0, 0, 0, 0, 0, next, 255}
	binary.BigEndian.PutUint16(p[4:], uint16(len(payload)))
	return append(append(append(p, src.AsSlice()...), dst.AsSlice()...), payload...)
}

func icmp6(kind byte, about netip.Addr, text string) []byte {
	p := []byte{kind, 0, 0, 0, 0x20, 0, 0, 0}
	return append(append(p, about.AsSlice()...), text...)
}

func local6(mac net.HardwareAddr) netip.Addr {
	a, _ := netip.AddrFromSlice(linkLocal(mac))
	return a
}
