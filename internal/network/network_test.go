package network

import (
	"fmt"
	"net/netip"
	"testing"

	"banger"
)

// longest is what the kernel allows for a link's name (IFNAMSIZ without the zero).
const longest = 15

func TestNames(t *testing.T) {
	i := InstanceOf("/home/ada/.local/state/banger")
	if i != InstanceOf("/home/ada/.local/state/banger") || i == InstanceOf("/root/.local/state/banger") {
		t.Errorf("instance %q does not follow from the directory alone", i)
	}
	for _, name := range []string{i.Bridge(), i.Uplink(), Tap("0123456789ab")} {
		if len(name) > longest {
			t.Errorf("%q is longer than %d", name, longest)
		}
	}
	if !IsBridge(i.Bridge()) || IsBridge(i.Uplink()) || IsBridge("bgr0") || IsBridge("docker0") {
		t.Error("IsBridge takes one link for another")
	}
	for _, mac := range []string{MAC("ffffffffffff").String(), MAC("000000000000").String(), i.BridgeMAC().String()} {
		var first byte
		if _, err := fmt.Sscanf(mac, "%x:", &first); err != nil || first&3 != 2 {
			t.Errorf("%s is not a local unicast address (%v)", mac, err)
		}
	}
	if MAC(banger.VMID("../etc")) != nil {
		t.Error("an impossible ID has a MAC")
	}
}

func TestAddr(t *testing.T) {
	subnet := netip.MustParsePrefix("10.201.16.0/20")
	if got := Gateway(subnet).String(); got != "10.201.16.1" {
		t.Errorf("gateway %s", got)
	}
	for slot, want := range map[int]string{2: "10.201.16.2", 256: "10.201.17.0", 4094: "10.201.31.254"} {
		if got, err := Addr(subnet, slot); err != nil || got.String() != want || !subnet.Contains(got) {
			t.Errorf("slot %d: %v, %v; want %s", slot, got, err, want)
		}
	}
	for _, slot := range []int{-1, 0, 1, 4095, 5000} {
		if got, err := Addr(subnet, slot); err == nil {
			t.Errorf("slot %d has the address %v", slot, got)
		}
	}
}
