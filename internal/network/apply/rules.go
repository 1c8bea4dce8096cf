package apply

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"banger/internal/network"
)

// table is one of the instance's tables as it should be. Its sets change with the
// guests; chains and rules follow from the instance, the mode and the subnet alone.
type table struct {
	*nftables.Table
	sets   []set
	chains []*nftables.Chain
	rules  []rule
}

type set struct {
	name string
	kind nftables.SetDatatype
	keys [][]byte
}

// rule is a rule of a chain, with what it is for, which `nft list ruleset` shows.
type rule struct {
	chain string
	what  string
	match
}

// tables returns the instance's tables. The first decides about packets that the host
// routes or receives, the second about the frames of its bridge.
func tables(w network.Wanted) []table {
	return []table{routed(w), bridged(w)}
}

func baseChain(t *nftables.Table, name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return &nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: priority}
}

// Sets of guests.
const (
	setEgress   = "egress"
	setIsolated = "isolated"
	setTaps     = "taps"
	setCards    = "cards"
	setSenders  = "senders"
	setSenders6 = "senders6"
)

func routed(w network.Wanted) table {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: w.Instance.Table()}
	egress, isolated := set{name: setEgress, kind: typeAddr}, set{name: setIsolated, kind: typeAddr}
	for _, g := range w.Guests {
		if g.Egress {
			egress.keys = append(egress.keys, g.Addr.AsSlice())
		}
		if g.Isolated {
			isolated.keys = append(isolated.keys, g.Addr.AsSlice())
		}
	}
	filter := nftables.ChainTypeFilter
	chains := []*nftables.Chain{
		baseChain(t, "input", filter, nftables.ChainHookInput, nftables.ChainPriorityFilter),
		baseChain(t, "forward", filter, nftables.ChainHookForward, nftables.ChainPriorityFilter),
		baseChain(t, "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
	}
	rules := append(inputRules(w), forwardRules(w)...)
	if w.Mode == network.Usernet {
		chains = append(chains, baseChain(t, "prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest))
		rules = append(rules, resolverRules(w)...)
	} else { // the stack sees which guest it is that asks
		// Not what the host asks the gateway, which is itself: that would come from another
		// of its addresses, which the guests' resolver does not answer.
		rules = append(rules, rule{"postrouting", "guests share the host's address",
			all(ipv4(), saddr(), within(w.Subnet), notTo(w.Instance.Bridge()), notTo("lo"), masq)})
	}
	return table{Table: t, sets: []set{egress, isolated}, chains: chains, rules: rules}
}

// inputRules close the host to guests.
func inputRules(w network.Wanted) []rule {
	guest, gateway := from(w.Instance.Bridge()), network.Gateway(w.Subnet)
	toGateway := all(guest, ipv4(), daddr(), is(gateway))
	return []rule{
		{"input", "answers to the host", all(guest, established(), accept)},
		{"input", "names", all(toGateway, protocol(unix.IPPROTO_UDP), dport(53), accept)},
		{"input", "names", all(toGateway, protocol(unix.IPPROTO_TCP), dport(53), accept)},
		{"input", "ping", all(toGateway, icmp(unix.IPPROTO_ICMP, 8), accept)},
		{"input", "guests reach nothing else of the host", all(guest, protocol(unix.IPPROTO_TCP), reset)},
		{"input", "guests reach nothing else of the host", all(guest, refuse)},
	}
}

// closed are addresses that mean something of the host's own.
var closed = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16")}

// forwardRules decide about what the host routes. Egress is asked before anything about
// connections is, so that taking it away also ends those that exist.
func forwardRules(w network.Wanted) []rule {
	bridge := w.Instance.Bridge()
	guest, toGuest := from(bridge), to(bridge)
	rules := []rule{
		{"forward", "isolated guests", all(guest, toGuest, ipv4(), saddr(), in(setIsolated), drop)},
		{"forward", "isolated guests", all(guest, toGuest, ipv4(), daddr(), in(setIsolated), drop)},
		{"forward", "guest to guest: br_netfilter shows bridged frames here", all(guest, toGuest, accept)},
	}
	if w.Mode == network.Usernet {
		rules = append(rules, uplinkRules(w)...)
	}
	tcp, instances := protocol(unix.IPPROTO_TCP), network.Instance("").Bridge()
	refused := func(what string, m match) { // at once; see refuse
		rules = append(rules, rule{"forward", what, all(m, tcp, reset)}, rule{"forward", what, all(m, refuse)})
	}
	refused("guests of other instances", all(guest, prefixed(expr.MetaKeyOIFNAME, instances)))
	refused("guests of other instances", all(prefixed(expr.MetaKeyIIFNAME, instances), toGuest))
	for _, p := range closed {
		refused("the host's own", all(guest, ipv4(), daddr(), within(p)))
	}
	rules = append(rules, rule{"forward", "guests with egress", all(guest, ipv4(), saddr(), in(setEgress), accept)})
	refused("guests without egress", guest)
	return append(rules,
		rule{"forward", "answers to guests with egress", all(toGuest, ipv4(), daddr(), in(setEgress), established(), accept)},
		rule{"forward", "connections from before egress was taken away", all(toGuest, tcp, established(), reset)},
		rule{"forward", "nobody reaches guests from outside", all(toGuest, drop)},
	)
}

// uplinkRules open the stack's resolver to every guest, and nothing else of the uplink.
func uplinkRules(w network.Wanted) []rule {
	bridge, uplink := w.Instance.Bridge(), w.Instance.Uplink()
	return []rule{
		{"forward", "names", all(from(bridge), to(uplink), redirected(), ipv4(), daddr(), is(network.UplinkGateway), accept)},
		{"forward", "names", all(from(uplink), to(bridge), redirected(), established(), ipv4(), saddr(), is(network.UplinkGateway), accept)},
		{"forward", "the uplink itself", all(from(bridge), ipv4(), daddr(), within(network.UplinkSubnet), protocol(unix.IPPROTO_TCP), reset)},
		{"forward", "the uplink itself", all(from(bridge), ipv4(), daddr(), within(network.UplinkSubnet), refuse)},
	}
}

// resolverRules send guests' questions to the stack.
func resolverRules(w network.Wanted) []rule {
	asks := all(from(w.Instance.Bridge()), ipv4(), daddr(), is(network.Gateway(w.Subnet)))
	return []rule{
		{"prerouting", "names", all(asks, protocol(unix.IPPROTO_UDP), dport(53), dnat(network.UplinkGateway))},
		{"prerouting", "names", all(asks, protocol(unix.IPPROTO_TCP), dport(53), dnat(network.UplinkGateway))},
	}
}

const (
	etherIPv4 = unix.ETH_P_IP
	etherIPv6 = unix.ETH_P_IPV6
	etherARP  = unix.ETH_P_ARP
)

func bridged(w network.Wanted) table {
	t := &nftables.Table{Family: nftables.TableFamilyBridge, Name: w.Instance.Table()}
	filter := nftables.ChainTypeFilter
	before, between := nftables.ChainPriorityRef(-300), nftables.ChainPriorityRef(-200)
	return table{Table: t, sets: senders(w.Guests),
		chains: []*nftables.Chain{
			baseChain(t, "prerouting", filter, nftables.ChainHookPrerouting, before),
			baseChain(t, "forward", filter, nftables.ChainHookForward, between),
		},
		rules: append(senderRules(w.Subnet),
			// A port's own flag would separate isolated guests only from each other.
			rule{"forward", "isolated guests", all(meta(expr.MetaKeyIIFNAME), in(setIsolated), drop)},
			rule{"forward", "isolated guests", all(meta(expr.MetaKeyOIFNAME), in(setIsolated), drop)},
		)}
}

// senderRules let a guest send under its own addresses only, and nothing that
// would make it other guests' router or DHCP server. They look at frames before the
// bridge learns from them.
func senderRules(subnet netip.Prefix) []rule {
	arp, ip, ip6 := ethertype(etherARP), ethertype(etherIPv4), ethertype(etherIPv6)
	udp := protocol(unix.IPPROTO_UDP)
	sender := all(card(), network3(12, 4, regAddr), in(setSenders))
	sender6 := all(card(), network3(8, 16, regAddr), in(setSenders6))
	pre := func(what string, parts ...match) rule { return rule{"prerouting", what, all(parts...)} }
	return []rule{
		pre("other links", meta(expr.MetaKeyIIFNAME), notIn(setTaps), accept),

		pre("ARP under the guest's own addresses, about its subnet", arp,
			network3(0, 6, reg), equal([]byte{0, 1, 8, 0, 6, 4}), // Ethernet and IPv4: what follows is where we look
			network3(24, 4, reg), within(subnet),
			card(), network3(14, 4, regAddr), in(setSenders),
			meta(expr.MetaKeyIIFNAME), network3(8, 6, regMAC), network3(14, 4, regAddr), in(setSenders), accept),

		pre("DHCP servers", ip, udp, sport(67), drop),
		pre("IPv4 under the guest's own addresses", ip, sender, accept),

		pre("routers", ip6, icmp(unix.IPPROTO_ICMPV6, 134), drop),
		pre("redirects", ip6, icmp(unix.IPPROTO_ICMPV6, 137), drop),
		pre("DHCP servers", ip6, udp, sport(547), drop),
		pre("neighbours that are the guest itself", ip6, icmp(unix.IPPROTO_ICMPV6, 136), sender6,
			card(), transport(8, 16, regAddr), in(setSenders6), accept),
		pre("other neighbours", ip6, icmp(unix.IPPROTO_ICMPV6, 136), drop),
		pre("IPv6 under the guest's own link-local address", ip6, sender6, accept),
		pre("guests that look for their address", ip6, protocol(unix.IPPROTO_ICMPV6),
			network3(8, 16, reg), equal(make([]byte, 16)), card(), in(setCards), accept),

		pre("everything else that a guest sends", match{&expr.Counter{}}, drop),
	}
}

// senders are the guests as their frames show them.
func senders(guests []network.Guest) []set {
	taps, isolated := set{name: setTaps, kind: typeLink}, set{name: setIsolated, kind: typeLink}
	cards, ip, ip6 := set{name: setCards, kind: typeCard}, set{name: setSenders, kind: typeSender}, set{name: setSenders6, kind: typeSender6}
	for _, g := range guests {
		tap, mac := ifname(network.Tap(g.ID)), network.MAC(g.ID)
		card := append(append([]byte{}, tap...), mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0)
		with := func(addr []byte) []byte { return append(append([]byte{}, card...), addr...) }
		taps.keys = append(taps.keys, tap)
		cards.keys = append(cards.keys, card)
		ip.keys = append(ip.keys, with(g.Addr.AsSlice()))
		ip6.keys = append(ip6.keys, with(linkLocal(mac)))
		if g.Isolated {
			isolated.keys = append(isolated.keys, tap)
		}
	}
	return []set{taps, cards, ip, ip6, isolated}
}

// linkLocal returns the IPv6 address that a system gives a card by its MAC. Others could
// not be told from forged ones.
func linkLocal(mac net.HardwareAddr) []byte {
	a := binary.BigEndian.AppendUint64(nil, 0xfe80<<48)
	return append(a, mac[0]^2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5])
}
