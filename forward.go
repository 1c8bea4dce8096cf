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

// VMPorts is what listens in a VM, and what is published.
type VMPorts struct {
	ID    VMID      `json:"id"`            // the VM's ID
	Name  string    `json:"name"`          // the VM's name
	State State     `json:"state"`         // what the VM is doing
	Ports []Forward `json:"ports"`         // by number; none of a VM that does not run
	Why   string    `json:"why,omitempty"` // why there may be others
}
