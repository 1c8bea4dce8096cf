package stack

import (
	"net/netip"

	"banger/internal/network"
)

var (
	gateway   = network.UplinkGateway
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// closed are the destinations that no guest reaches through the stack, on any host.
var closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // this host, in another spelling
	netip.MustParsePrefix("127.0.0.0/8"),    // the host's loopback
	netip.MustParsePrefix("169.254.0.0/16"), // cloud metadata
	netip.MustParsePrefix("224.0.0.0/4"),    // multicast
	netip.MustParsePrefix("240.0.0.0/4"),    // reserved, and broadcast
	network.UplinkSubnet,                    // nothing is behind the stack's own link
}

// Policy says which destinations guests may reach. It is the one place for rules about
// destinations; rules about guests are package apply's.
type Policy struct {
	Guests netip.Prefix // the instance's own subnet: it is not outside
}

// Route is what the host's routing table says about a destination.
type Route struct {
	Local bool   // one of the host's own addresses, or a broadcast address of its links
	Link  string // the name of the link that leads there
}

// Allows reports whether a destination is open on every host. A destination that it
// allows is refused still if Leads does not allow the host's route to it.
func (p Policy) Allows(dst netip.Addr) bool {
	if !dst.Is4() || p.Guests.IsValid() && p.Guests.Contains(dst) {
		return false
	}
	for _, prefix := range closed {
		if prefix.Contains(dst) {
			return false
		}
	}
	return true
}

// Leads reports whether the host's route to a destination leads outside: not to the
// host itself, whose services trust who is local, and not to guests of another instance.
func (p Policy) Leads(r Route) bool {
	return !r.Local && !network.IsBridge(r.Link)
}
