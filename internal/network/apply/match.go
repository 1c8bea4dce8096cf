package apply

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// match is a part of a rule: each of its expressions ends the rule for a packet that it
// does not fit. A load that finds the packet too short does so as well, so a rule that
// must hold for every packet has to name what may pass, not what may not.
type match []expr.Any

// Registers of 4 bytes. A key of several parts lies in consecutive ones.
const (
	reg     = unix.NFT_REG32_00     // whatever is compared, and the first part of a key: a link's name
	regMAC  = unix.NFT_REG32_00 + 4 // the second part
	regAddr = unix.NFT_REG32_00 + 6 // the third part
)

func all(parts ...match) match { return slices.Concat(parts...) }

func equal(data []byte) match  { return match{&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data}} }
func differ(data []byte) match { return match{&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: data}} }

func meta(key expr.MetaKey) match { return match{&expr.Meta{Key: key, Register: reg}} }

func load(base expr.PayloadBase, offset, size, to uint32) match {
	return match{&expr.Payload{Base: base, Offset: offset, Len: size, DestRegister: to}}
}

func link(offset, size, to uint32) match {
	return load(expr.PayloadBaseLLHeader, offset, size, to)
}
func network3(offset, size, to uint32) match {
	return load(expr.PayloadBaseNetworkHeader, offset, size, to)
}
func transport(offset, size, to uint32) match {
	return load(expr.PayloadBaseTransportHeader, offset, size, to)
}

func masked(mask []byte) match {
	return match{&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}}
}

func in(set string) match { return match{&expr.Lookup{SourceRegister: reg, SetName: set}} }
func notIn(set string) match {
	return match{&expr.Lookup{SourceRegister: reg, SetName: set, Invert: true}}
}

// ifname is a link's name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func from(name string) match  { return all(meta(expr.MetaKeyIIFNAME), equal(ifname(name))) }
func to(name string) match    { return all(meta(expr.MetaKeyOIFNAME), equal(ifname(name))) }
func notTo(name string) match { return all(meta(expr.MetaKeyOIFNAME), differ(ifname(name))) }

// prefixed matches every link whose name begins with prefix.
func prefixed(key expr.MetaKey, prefix string) match { return all(meta(key), equal([]byte(prefix))) }

func ipv4() match { return all(meta(expr.MetaKeyNFPROTO), equal([]byte{unix.NFPROTO_IPV4})) }

func saddr() match { return network3(12, 4, reg) }
func daddr() match { return network3(16, 4, reg) }

func is(addr netip.Addr) match { return equal(addr.AsSlice()) }

func within(p netip.Prefix) match {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return all(masked(mask), equal(p.Masked().Addr().AsSlice()))
}

func protocol(p byte) match { return all(meta(expr.MetaKeyL4PROTO), equal([]byte{p})) }
func sport(p uint16) match {
	return all(transport(0, 2, reg), equal(binary.BigEndian.AppendUint16(nil, p)))
}
func dport(p uint16) match {
	return all(transport(2, 2, reg), equal(binary.BigEndian.AppendUint16(nil, p)))
}

// icmp matches the type of an ICMP or ICMPv6 message.
func icmp(proto, kind byte) match {
	return all(protocol(proto), transport(0, 1, reg), equal([]byte{kind}))
}

// established matches what belongs to a known connection.
func established() match {
	return ct(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// redirected matches connections whose destination a DNAT changed.
func redirected() match { return ct(expr.CtKeySTATUS, 1<<5) } // IPS_DST_NAT

func ct(key expr.CtKey, bits uint32) match {
	return all(match{&expr.Ct{Key: key, Register: reg}}, masked(binary.NativeEndian.AppendUint32(nil, bits)), differ(make([]byte, 4)))
}

func ethertype(t uint16) match {
	return all(link(12, 2, reg), equal(binary.BigEndian.AppendUint16(nil, t)))
}

// card loads the link that a frame came by and its sender's MAC, the first parts of a key.
func card() match { return all(meta(expr.MetaKeyIIFNAME), link(6, 6, regMAC)) }

// Verdicts.
var (
	accept = match{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop   = match{&expr.Verdict{Kind: expr.VerdictDrop}}
	// refuse tells the sender at once, so that nothing waits for a timeout. The kernel
	// sends a guest only six such messages in a row and then one a second.
	refuse = match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
	// reset refuses or ends a TCP connection, as often as a guest tries one.
	reset = match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	masq  = match{&expr.Masq{}}
)

// dnat sends a packet to another address; its port stays.
func dnat(addr netip.Addr) match {
	return match{
		&expr.Immediate{Register: reg, Data: addr.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg},
	}
}

// The types of sets.
var (
	typeLink    = nftables.TypeIFName
	typeAddr    = nftables.TypeIPAddr
	typeCard    = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr)
	typeSender  = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
	typeSender6 = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIP6Addr)
)
