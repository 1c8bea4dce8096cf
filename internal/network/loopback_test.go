package network

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestLoopback(t *testing.T) {
	nobodys := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/16"), netip.MustParsePrefix("127.53.0.0/16")}
	blocks := map[netip.Prefix]bool{}
	for n := range 4064 {
		i := Instance(fmt.Sprintf("%08x", n))
		for _, slot := range []int{FirstSlot, LastSlot} {
			addr, err := Loopback(i, slot)
			if err != nil || !addr.IsLoopback() || nobodys[0].Contains(addr) || nobodys[1].Contains(addr) {
				t.Fatalf("%s, slot %d: %v, %v", i, slot, addr, err)
			}
			blocks[netip.PrefixFrom(addr, PrefixBits).Masked()] = true
		}
	}
	if len(blocks) != 4064 {
		t.Errorf("%d blocks for 4064 instances", len(blocks))
	}
	if got, _ := Loopback("00000000", 258); got.String() != "127.1.1.2" {
		t.Errorf("got %s", got)
	}
	for _, slot := range []int{0, 1, 4095} {
		if got, err := Loopback("00000000", slot); err == nil {
			t.Errorf("slot %d: %v", slot, got)
		}
	}
	if got, err := Loopback("x", 2); err == nil {
		t.Errorf("got %v", got)
	}
}
