package instance

import (
	"net/netip"
	"testing"

	"banger"
	"banger/internal/network"
)

func TestSubnetAvoidsTheHost(t *testing.T) {
	const instance = network.Instance("01234567")
	first, err := freeSubnet(instance, nil)
	if err != nil || !pool.Overlaps(first) || first.Bits() != network.PrefixBits {
		t.Fatalf("got %v, %v", first, err)
	}
	for _, taken := range []netip.Prefix{first, netip.PrefixFrom(first.Addr().Next(), 32), netip.PrefixFrom(first.Addr(), 12).Masked()} {
		got, err := freeSubnet(instance, []netip.Prefix{taken})
		if err != nil || got.Overlaps(taken) {
			t.Errorf("with %v taken: got %v, %v", taken, got, err)
		}
	}
	// A company's VPN that leads to all of 10.0.0.0/8 is no reason.
	if got, _ := freeSubnet(instance, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/0")}); got != first {
		t.Errorf("with wide routes: got %v, want %v", got, first)
	}
	if _, err := freeSubnet(instance, []netip.Prefix{pool}); banger.KindOf(err) != banger.Unready || banger.FixOf(err) == "" {
		t.Errorf("with everything taken: %v", err)
	}
}

func TestParseRoutes(t *testing.T) {
	const text = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100000A	0003	0	0	0	00000000	0	0	0
eth0	0000C90A	00000000	0001	0	0	0	00F0FFFF	0	0	0
bgr01234567	0000C80A	00000000	0001	0	0	0	00F0FFFF	0	0	0
garbage	x	y	z	0	0	0	w	0	0	0
`
	got := parseRoutes([]byte(text), "bgr01234567")
	if len(got) != 2 || got[0].String() != "0.0.0.0/0" || got[1].String() != "10.201.0.0/20" {
		t.Errorf("got %v", got)
	}
}

func TestCheckSubnet(t *testing.T) {
	taken := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.200.1.0/24")}
	for subnet, want := range map[string]banger.Kind{
		"10.201.0.0/20": "", "172.20.16.0/20": "", "192.168.240.0/20": "",
		"10.200.0.0/20": banger.Conflict, "10.201.0.0/24": banger.Invalid, "10.201.0.0/16": banger.Invalid, "10.201.1.0/20": banger.Invalid,
		"8.8.0.0/20": banger.Invalid, "172.32.0.0/20": banger.Invalid, "127.1.0.0/20": banger.Invalid, "fd00::/20": banger.Invalid, "::ffff:10.201.0.0/116": banger.Invalid,
	} {
		err := checkSubnet(netip.MustParsePrefix(subnet), taken)
		if (err == nil) != (want == "") || err != nil && (banger.KindOf(err) != want || banger.FixOf(err) == "") {
			t.Errorf("%s: %v", subnet, err)
		}
	}
}

func TestInSubnet(t *testing.T) {
	to := netip.MustParsePrefix("10.201.16.0/20")
	for from, want := range map[string]string{"10.240.15.254": "10.201.31.254", "10.201.16.2": "10.201.16.2", "172.20.1.7": "10.201.17.7"} {
		if got := inSubnet(netip.MustParseAddr(from), to); got.String() != want {
			t.Errorf("%s: %v, want %s", from, got, want)
		}
	}
	if got := inSubnet(netip.Addr{}, to); got.IsValid() {
		t.Errorf("got %v", got)
	}
}
