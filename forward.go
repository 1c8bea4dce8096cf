package banger

import "net/netip"

// Forward is a TCP port of a guest, and where the host reaches it.
type Forward struct {
	Port      uint16           `json:"port"`                // in the guest
	Program   string           `json:"program,omitempty"`   // that listens on it, if known
	Listening bool             `json:"listening"`           // whether something in the guest listens on it
	Published bool             `json:"published,omitempty"` // whether --port asks for it
	Addresses []netip.AddrPort `json:"addresses"`           // on the host
	Why       string           `json:"why,omitempty"`       // what is missing: an address that the VM did not get, or connections that fail
	Fix       string           `json:"fix,omitempty"`       // one command or one sentence
}
