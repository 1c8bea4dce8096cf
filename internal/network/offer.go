package network

import "net/netip"

// OfferRole is the first argument that makes bangerd print the Offer for a state
// directory, its second argument, as one line of JSON. It is for bangerd to say: AppArmor
// allows programs by their path.
const OfferRole = "offer"

// Offer is the network that the VMs of a state directory can have on this host.
type Offer struct {
	Mode     Mode           `json:"mode"`
	Why      string         `json:"why,omitempty"`      // why Mode is None
	Fix      string         `json:"fix,omitempty"`      // what would change that
	Conflict *Note          `json:"conflict,omitempty"` // what is in the way of VMs that run
	Resolver netip.AddrPort `json:"resolver"`           // where this host can ask for names of VMs
}
