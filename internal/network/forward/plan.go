package forward

import (
	"cmp"
	"net/netip"
	"slices"

	"banger"
)

// plan is who gets which address of the host. It follows from what the VMs want.
type plan struct {
	claims  []*claim
	holders map[netip.AddrPort]*claim
}

// claim is a port of a guest that wants addresses of the host: all of them or none, so
// that localhost is never two programs.
type claim struct {
	vm        *vm
	port      uint16 // in the guest
	rank      rank
	place     uint64 // in the queue
	at        []netip.AddrPort
	holder    *claim // that has one of the addresses; nil if this has all
	err       error  // the host refused
	forbidden bool   // the host forbids the port itself; another stands in, if there is one
}

// rank orders claims: what is published wins.
type rank int

const (
	published rank = iota
	own
	local
)

func (c *claim) granted() bool { return c.holder == nil && c.err == nil && len(c.at) > 0 }

// privileged is the lowest port that is not: most hosts forbid those below.
const privileged = 1024

// standIn is the port that stands in for one below 1024 where the host forbids those:
// 8080 for 80, and 8443 for 443.
func standIn(port uint16) uint16 { return port + 8000 }

// newPlan decides. Ports below lowest cannot be had, and neither can what has failed.
func newPlan(vms []*vm, lowest uint16, failed map[netip.AddrPort]error) *plan {
	p := &plan{holders: map[netip.AddrPort]*claim{}}
	for _, v := range vms {
		p.claims = append(p.claims, v.publishes()...)
		if v.Auto {
			p.claims = append(p.claims, v.forwards(lowest)...)
		}
	}
	slices.SortFunc(p.claims, func(a, b *claim) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.place, b.place))
	})
	auto, _ := slices.BinarySearchFunc(p.claims, own, func(c *claim, r rank) int { return cmp.Compare(c.rank, r) })
	for _, c := range p.claims[:auto] {
		c.err = failed[c.at[0]]
		p.grant(c)
	}
	// What is published everywhere is so on the host itself, unless another is there.
	for _, c := range p.claims[:auto] {
		if lo := onLoopback(c.at[0]); c.granted() && lo.IsValid() && p.holders[lo] == nil {
			p.holders[lo] = c
		}
	}
	for _, c := range p.claims[auto:] {
		p.grant(c)
	}
	return p
}

func (p *plan) grant(c *claim) {
	for _, at := range c.at {
		if h := p.holders[at]; h != nil {
			c.holder = h
			return
		}
	}
	if !c.granted() {
		return
	}
	for _, at := range c.at {
		p.holders[at] = c
	}
}

// drop takes its addresses from a claim that the host refused.
func (p *plan) drop(c *claim, err error) {
	c.err = err
	for _, at := range c.at {
		delete(p.holders, at)
	}
}

// socket returns the address to listen on for at: a socket for every address of the
// host lets no other have the same port.
func (p *plan) socket(at netip.AddrPort) netip.AddrPort {
	if every := everywhere(at); p.holders[every] != nil {
		return every
	}
	return at
}

// everywhere returns the address that stands for all of at's family.
func everywhere(at netip.AddrPort) netip.AddrPort {
	if at.Addr().Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
}

// onLoopback returns the address by which the host itself reaches what listens on every
// address, and the zero AddrPort for other addresses.
func onLoopback(at netip.AddrPort) netip.AddrPort {
	switch at.Addr() {
	case netip.IPv4Unspecified():
		return netip.AddrPortFrom(loopback4, at.Port())
	case netip.IPv6Unspecified():
		return netip.AddrPortFrom(loopback6, at.Port())
	}
	return netip.AddrPort{}
}

// addressesOf returns the addresses that a published port needs.
func addressesOf(p banger.Publish) []netip.AddrPort {
	if p.Addr.IsValid() {
		return []netip.AddrPort{netip.AddrPortFrom(p.Addr, p.Host)}
	}
	return localhost(p.Host)
}

func localhost(port uint16) []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(loopback4, port), netip.AddrPortFrom(loopback6, port)}
}

func (v *vm) publishes() (claims []*claim) {
	for _, p := range v.Published {
		claims = append(claims, &claim{vm: v, port: p.Port, rank: published, place: v.published[p], at: addressesOf(p)})
	}
	return claims
}

func (v *vm) forwards(lowest uint16) (claims []*claim) {
	for _, p := range v.ports[:min(len(v.ports), MaxPorts)] {
		number, place, forbidden := p.number, p.place, p.number < lowest
		if forbidden {
			number, place = standIn(p.number), p.standIn
		}
		for _, c := range []*claim{
			{rank: own, at: []netip.AddrPort{netip.AddrPortFrom(v.own, number)}},
			{rank: local, at: localhost(number)},
		} {
			c.vm, c.port, c.place, c.forbidden = v, p.number, place, forbidden
			if place == 0 || c.rank == own && !v.own.IsValid() {
				c.at = nil
			}
			claims = append(claims, c)
		}
	}
	return claims
}
