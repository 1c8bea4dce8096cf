package instance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"banger"
	"banger/internal/network"
	"banger/internal/network/helper"
)

// Renumber gives the instance another subnet, which it returns: the wanted one, or a free
// one if wanted is the zero Prefix. VMs keep their places in it. The kernel and the
// helper follow at once; the guests are the caller's to tell. After a failure all is as
// before.
func (n *Network) Renumber(ctx context.Context, wanted netip.Prefix) (netip.Prefix, error) {
	if n.Mode() == network.None {
		return netip.Prefix{}, n.Why()
	}
	if err := n.lock(ctx); err != nil {
		return netip.Prefix{}, err
	}
	defer n.mu.Unlock()
	was := n.Subnet()
	var err error
	if wanted.IsValid() {
		err = n.checkSubnet(wanted)
	} else {
		wanted, err = chooseSubnet(n.instance, []netip.Prefix{was})
	}
	if err != nil || wanted == was {
		return wanted, err
	}
	if err := n.move(ctx, wanted); err != nil {
		return was, errors.Join(err, n.move(context.WithoutCancel(ctx), was))
	}
	if err := n.Record(ctx, wanted); err != nil {
		return was, errors.Join(err, n.move(context.WithoutCancel(ctx), was))
	}
	clear(n.noted)
	n.lookForConflict()
	return wanted, nil
}

// move makes the subnet the one of the kernel and the helper. The helper starts again: it
// has its subnet for its life. The caller holds mu.
func (n *Network) move(ctx context.Context, to netip.Prefix) error {
	n.subnet.Store(&to)
	for id, g := range n.guests {
		g.Addr = inSubnet(g.Addr, to)
		n.guests[id] = g
	}
	for id, name := range n.names {
		name.Addr = inSubnet(name.Addr, to)
		n.names[id] = name
	}
	n.untellHost(ctx)
	if p := n.helper; p != nil {
		n.helper = nil
		if err := helper.End(p); err != nil {
			return err
		}
	}
	_, err := n.settle(ctx)
	return err
}

// inSubnet returns the address with the same place in another subnet.
func inSubnet(addr netip.Addr, subnet netip.Prefix) netip.Addr {
	const place = 1<<(32-network.PrefixBits) - 1
	if !addr.Is4() || !subnet.IsValid() {
		return addr
	}
	from, to := addr.As4(), subnet.Masked().Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(to[:])|binary.BigEndian.Uint32(from[:])&place)
	return netip.AddrFrom4(a)
}

// private are the subnets that no host of the internet has.
var private = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16")}

// checkSubnet refuses a subnet that the guests cannot have.
func (n *Network) checkSubnet(subnet netip.Prefix) error {
	taken, err := takenByHost(n.instance.Bridge())
	if err != nil {
		return fmt.Errorf("read the host's routes: %w", err)
	}
	return checkSubnet(subnet, taken)
}

func checkSubnet(subnet netip.Prefix, taken []netip.Prefix) error {
	const fix = "banger network renumber, which chooses a free one"
	switch {
	case !subnet.Addr().Is4() || subnet.Bits() != network.PrefixBits:
		return banger.Invalidf(fix, "the subnet %v is not an IPv4 prefix of %d bits", subnet, network.PrefixBits)
	case subnet != subnet.Masked():
		return banger.Invalidf("banger network renumber --subnet "+subnet.Masked().String(), "the subnet %v begins at %v", subnet, subnet.Masked().Addr())
	case !isPrivate(subnet):
		return banger.Invalidf(fix, "the subnet %v is not private: others have its addresses", subnet)
	}
	if t := conflict(subnet, taken); t.IsValid() {
		return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("the host has an address in or a route to %v, which overlaps %v", t, subnet), Fix: fix}
	}
	return nil
}

func isPrivate(subnet netip.Prefix) bool {
	for _, p := range private {
		if p.Overlaps(subnet) { // both are prefixes, and it is the smaller one
			return true
		}
	}
	return false
}
