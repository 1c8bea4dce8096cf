package network

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
)

// Loopback returns the host's own address for the guest with a slot. Behind 127 come 12
// bits that follow from the instance, and the 12 bits of the slot. Linux has all of
// 127.0.0.0/8 without any setup. Two instances seldom share their 12 bits. Nobody gets
// 127.0.0.0/16, where other programs listen, or 127.53.0.0/16, where resolvers do.
func Loopback(i Instance, slot int) (netip.Addr, error) {
	if slot < FirstSlot || slot > LastSlot {
		return netip.Addr{}, fmt.Errorf("slot %d is not between %d and %d", slot, FirstSlot, LastSlot)
	}
	raw, err := hex.DecodeString(string(i))
	if err != nil || len(raw) != 4 {
		return netip.Addr{}, fmt.Errorf("%q is not an instance", i)
	}
	const (
		slotBits = 32 - PrefixBits
		inByte   = 1 << (16 - slotBits) // values of b that share the second byte
		all      = 1 << (24 - slotBits)
		resolver = 53 * inByte
	)
	b := inByte + binary.BigEndian.Uint32(raw)%(all-2*inByte)
	if b >= resolver {
		b += inByte
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 127<<24|b<<slotBits|uint32(slot))
	return netip.AddrFrom4(a), nil
}
