package apply

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
	"banger/internal/network/networktest"
)

// expect is who should reach what.
func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// What a guest is told at once, by TCP and otherwise.
const (
	refused     = "refused"
	unreachable = "unreachable"
)

func TestEgress(t *testing.T) {
	if !inside(t) {
		return
	}
	world := outside(t)
	w := plan(network.Bridge, 3)
	w.Guests[1].Egress = false
	mustApply(t, w)
	one, two := boot(t, w, w.Guests[0]), boot(t, w, w.Guests[1])
	two.serve(t, ":7")
	expect(t, "with egress", one.reach(outsideAddr, 7), "")
	expect(t, "without egress", two.reach(outsideAddr, 7), refused)
	expect(t, "guest to guest without egress", one.reach(two.Addr, 7), "")

	set := func(on bool) { w.Guests[1].Egress = on; mustApply(t, w) }
	steady, err := one.dial("192.0.2.2:7")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		set(true)
		flow, err := two.dial("192.0.2.2:7")
		if err != nil {
			t.Fatalf("with egress again: %v", err)
		}
		expect(t, "a flow", echo(flow, "hello"), "")
		set(false)
		expect(t, "a flow from before", echo(flow, "hello"), "reset")
		expect(t, "without egress again", two.reach(outsideAddr, 7), refused)
		expect(t, "the other guest's flow", echo(steady, "hello"), "")
	}
	// Who is outside learns it too, also when the guest only listens.
	set(true)
	far := make(chan net.Conn, 1)
	world.Must(t, func() error {
		l, err := net.Listen("tcp4", ":8")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			if conn, err := l.Accept(); err == nil {
				far <- conn
			}
		}()
		return nil
	})
	if _, err := two.dial("192.0.2.2:8"); err != nil {
		t.Fatal(err)
	}
	set(false)
	expect(t, "a flow from before, from outside", echo(<-far, "news"), "reset")
	// Nobody reaches a guest that did not ask first, not even one with egress.
	one.serve(t, ":7")
	world.Must(t, func() error {
		link, err := netlink.LinkByName("in0")
		if err != nil {
			return err
		}
		_, subnet, _ := net.ParseCIDR(testSubnet.String())
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: subnet, Gw: net.ParseIP("192.0.2.1")})
	})
	expect(t, "outside to a guest", world.reachWithin(one.Addr, 7, impatience), "silence")
	conn, err := net.Dial("tcp4", fmt.Sprintf("%v:7", one.Addr))
	if err != nil {
		t.Fatalf("host to guest: %v", err)
	}
	expect(t, "host to guest", echo(conn, "hello"), "")
}

// TestFlowsOutliveReplacement shows that connections through the host do not notice
// when the tables are replaced as a whole, which also happens at every update that
// changes a rule.
func TestFlowsOutliveReplacement(t *testing.T) {
	if !inside(t) {
		return
	}
	outside(t)
	w := plan(network.Bridge, 2)
	mustApply(t, w)
	one := boot(t, w, w.Guests[0])
	flow, err := one.dial("192.0.2.2:7")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "before", echo(flow, "hello"), "")
	for range 20 {
		found := firewall{} // as after a change of the rules
		if err := (&applier{ctx: context.Background(), Wanted: w}).ensureFirewall(found); err != nil {
			t.Fatal(err)
		}
		expect(t, "after", echo(flow, "hello"), "")
	}
}

// TestRepair takes things away that Apply has made: the next one makes them again.
func TestRepair(t *testing.T) {
	if !inside(t) {
		return
	}
	w := plan(network.Bridge, 3)
	mustApply(t, w)
	want := snapshot(t)
	mine := tables(w)
	byName := func(name string, f func(netlink.Link) error) func() error {
		return func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return f(link)
		}
	}
	element := func(f func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error, key []byte) func() error {
		return func() error {
			conn := &nftables.Conn{}
			set := mine[0].set(set{name: setEgress, kind: typeAddr})
			return errors.Join(f(conn, set, []nftables.SetElement{{Key: key}}), conn.Flush())
		}
	}
	tap := network.Tap(w.Guests[1].ID)
	for name, spoil := range map[string]func() error{
		"all rules":           func() error { conn := &nftables.Conn{}; conn.FlushRuleset(); return conn.Flush() },
		"one table":           func() error { conn := &nftables.Conn{}; conn.DelTable(mine[1].Table); return conn.Flush() },
		"an element":          element((*nftables.Conn).SetDeleteElements, w.Guests[0].Addr.AsSlice()),
		"an element too many": element((*nftables.Conn).SetAddElements, []byte{10, 0, 0, 1}),
		"the bridge":          byName(w.Instance.Bridge(), netlink.LinkDel),
		"the bridge is down":  byName(w.Instance.Bridge(), netlink.LinkSetDown),
		"its address": byName(w.Instance.Bridge(), func(l netlink.Link) error {
			return netlink.AddrReplace(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.9.9.9/24"))})
		}),
		"its MAC":       byName(w.Instance.Bridge(), func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, network.MAC("222222222222")) }),
		"a TAP":         byName(tap, netlink.LinkDel),
		"a TAP is down": byName(tap, netlink.LinkSetDown),
		"a TAP is out":  byName(tap, netlink.LinkSetNoMaster),
		"a TAP's MTU":   byName(tap, func(l netlink.Link) error { return netlink.LinkSetMTU(l, 999) }),
		"the MTU":       byName(w.Instance.Bridge(), func(l netlink.Link) error { return netlink.LinkSetMTU(l, 999) }),
		"forwarding":    func() error { return os.WriteFile(ipForward, []byte("0"), 0) },
	} {
		if err := spoil(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if snapshot(t) == want {
			t.Errorf("%s: nothing has changed", name)
		}
		mustApply(t, w)
		if name == "all rules" { // which forgets that we switched forwarding on
			setForwards("0")
			mustApply(t, w)
		}
		same(t, name, snapshot(t), want)
	}
}

func TestIsolated(t *testing.T) {
	if !inside(t) {
		return
	}
	outside(t)
	w := plan(network.Bridge, 3)
	w.Guests[0].Isolated = true
	mustApply(t, w)
	alone, two, three := boot(t, w, w.Guests[0]), boot(t, w, w.Guests[1]), boot(t, w, w.Guests[2])
	for _, g := range []*guest{alone, two, three} {
		g.serve(t, ":7")
	}
	dead := func(what string, from *guest, to netip.Addr) {
		t.Helper()
		if got := from.reachWithin(to, 7, impatience); got != "silence" && got != unreachable { // nobody answers ARP
			t.Errorf("%s: %q", what, got)
		}
	}
	dead("an isolated guest to another", alone, two.Addr)
	dead("another to an isolated guest", two, alone.Addr)
	expect(t, "others", two.reach(three.Addr, 7), "")
	expect(t, "an isolated guest outside", alone.reach(outsideAddr, 7), "")

	for _, g := range []*guest{alone, two} { // so that the host need not ask where they are
		conn, err := net.Dial("tcp4", fmt.Sprintf("%v:7", g.Addr))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	// Two guests that work together send by the host's address instead of each other's.
	bridge := testInstance.BridgeMAC()
	hairpin := func(from, to *guest) bool {
		from.forge(t, ether(bridge, network.MAC(from.ID), etherIPv4, ip4(from.Addr, to.Addr, unix.IPPROTO_UDP, datagram(9, 9, "HAIRPIN"))...))
		return to.seesNow(t, "HAIRPIN")
	}
	if hairpin(alone, two) || hairpin(two, alone) {
		t.Error("an isolated guest reaches another through the host")
	}
	frame := func(from, to *guest) bool { // which only the bridge sees
		from.forge(t, ether(network.MAC(to.ID), network.MAC(from.ID), etherIPv6,
			ip6(local6(network.MAC(from.ID)), local6(network.MAC(to.ID)), unix.IPPROTO_UDP, datagram(9, 9, "BRIDGED"))...))
		return to.seesNow(t, "BRIDGED")
	}
	if frame(alone, two) || frame(two, alone) {
		t.Error("the bridge carries frames of or to an isolated guest")
	}
	w.Guests[0].Isolated = false
	mustApply(t, w)
	alone.Must(t, forgetNeighbours)
	expect(t, "no longer isolated", alone.reach(two.Addr, 7), "")
	if !hairpin(alone, two) || !hairpin(two, alone) { // with the same frames
		t.Error("the host does not route between guests: the test above shows nothing")
	}
}

// TestOthersBridges shows that bridges that are not ours carry what they like.
func TestOthersBridges(t *testing.T) {
	if !inside(t) {
		return
	}
	mustApply(t, plan(network.Bridge, 1))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "theirs"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge)); err != nil {
		t.Fatal(err)
	}
	var ports []*os.File
	for _, name := range []string{"bg0", "tap1"} {
		port, err := openExisting(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { port.Close() })
		ports = append(ports, port)
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link)); err != nil {
			t.Fatal(err)
		}
	}
	sent := append(make([]byte, vnetHeader), ether(broadcast, network.MAC("333333333333"), 0x88b5, []byte("FOREIGN")...)...)
	if _, err := ports[0].Write(sent); err != nil {
		t.Fatal(err)
	}
	ports[1].SetReadDeadline(time.Now().Add(5 * time.Second))
	for b := make([]byte, 2000); ; {
		n, err := ports[1].Read(b)
		if err != nil {
			t.Fatalf("a frame on a bridge of somebody else: %v", err)
		}
		if strings.Contains(string(b[:n]), "FOREIGN") {
			return
		}
	}
}

// forgetNeighbours makes a guest ask again who has an address.
func forgetNeighbours() error {
	list, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_V4) })
	for _, n := range list {
		err = errors.Join(err, netlink.NeighDel(&n))
	}
	return err
}

func TestHostIsClosed(t *testing.T) {
	if !inside(t) {
		return
	}
	outside(t)
	w := plan(network.Bridge, 2)
	w.Guests[1].Egress = false
	mustApply(t, w)
	other := plan(network.Bridge, 1)
	other.Instance, other.Subnet = otherOne, netip.MustParsePrefix("10.202.0.0/20")
	other.Guests[0].ID, other.Guests[0].Addr = "bbbbbbbbbbbb", netip.MustParseAddr("10.202.0.2")
	mustApply(t, other)
	theirs := boot(t, other, other.Guests[0])
	theirs.serve(t, ":7")

	here := &space{&networktest.Namespace{}}
	gateway := network.Gateway(w.Subnet)
	askers := map[string]<-chan string{}
	for _, at := range []string{":8080", fmt.Sprintf("%v:53", gateway), "192.0.2.1:53"} {
		here.serve(t, at)
		askers[at] = here.answer(t, at)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil { // as on every host: it asks itself through it
		t.Fatal(err)
	}
	expect(t, "the host asks for names", here.ask(gateway, 53), "")
	select {
	case from := <-askers[fmt.Sprintf("%v:53", gateway)]:
		expect(t, "who asks", from, gateway.String())
	default:
		t.Error("nobody has asked")
	}
	var guests []*guest
	for i, g := range w.Guests {
		g := boot(t, w, g)
		guests = append(guests, g)
		for _, host := range []string{gateway.String(), "192.0.2.1", "10.202.0.1"} {
			expect(t, fmt.Sprintf("guest %d to the host at %s", i, host), g.reach(netip.MustParseAddr(host), 8080), refused)
			expect(t, fmt.Sprintf("guest %d asks the host at %s", i, host), g.ask(netip.MustParseAddr(host), 8080), unreachable)
		}
		expect(t, "names", g.reach(gateway, 53), "")
		expect(t, "names by UDP", g.ask(gateway, 53), "")
		g.forge(t, ether(testInstance.BridgeMAC(), network.MAC(g.ID), etherIPv4, ip4(g.Addr, gateway, unix.IPPROTO_ICMP, ping("PING-TO-HOST"))...))
		if !g.seesNow(t, "PING-TO-HOST") {
			t.Error("the gateway does not answer a ping")
		}
		expect(t, "the host's own resolver", g.reach(netip.MustParseAddr("192.0.2.1"), 53), refused)
		expect(t, "another instance's guest", g.reach(theirs.Addr, 7), refused)
		expect(t, "the metadata service", g.reach(netip.MustParseAddr("169.254.169.254"), 80), refused)
		// The host does not even answer who has its other addresses.
		g.forge(t, ether(broadcast, network.MAC(g.ID), etherARP, arpPacket(1, network.MAC(g.ID), g.Addr, netip.MustParseAddr("192.0.2.1"), "")...))
		if g.seesNow(t, string(append(append([]byte{0, 2}, testInstance.BridgeMAC()...), 192, 0, 2, 1))) {
			t.Error("the host answers ARP for its other addresses")
		}
		for range 20 { // more often than the kernel sends ICMP errors
			expect(t, "the host again", g.reach(gateway, 8080), refused)
		}
	}
	// Even when somebody has flushed the other instance's rules.
	conn := &nftables.Conn{}
	for _, table := range tables(other) {
		conn.DelTable(table.Table)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	expect(t, "another instance's guest without rules", guests[0].reach(theirs.Addr, 7), refused)
	here.Do(func() error {
		conn, err := net.Dial("tcp4", fmt.Sprintf("%v:7", theirs.Addr))
		if err != nil {
			t.Errorf("host to guest: %v", err)
			return nil
		}
		expect(t, "host to guest", echo(conn, "hello"), "")
		return nil
	})
}

var broadcast = net.HardwareAddr{255, 255, 255, 255, 255, 255}

func TestForgedFrames(t *testing.T) {
	if !inside(t) {
		return
	}
	w := plan(network.Bridge, 3)
	mustApply(t, w)
	a, b, c := boot(t, w, w.Guests[0]), boot(t, w, w.Guests[1]), boot(t, w, w.Guests[2])
	macA, macB, macC := network.MAC(a.ID), network.MAC(b.ID), network.MAC(c.ID)
	gateway := network.Gateway(w.Subnet)
	all6, none6 := netip.MustParseAddr("ff02::1"), netip.IPv6Unspecified()
	udp := func(text string) []byte { return datagram(9, 9, text) }
	const mark = "FORGED"
	hop := func(next byte, p []byte) []byte { return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, p...) } // a hop-by-hop header
	wrong := arpPacket(2, macA, c.Addr, b.Addr, mark)
	wrong[4] = 7 // whoever believes this looks elsewhere
	long := ether(macB, macA, etherIPv4, ip4(a.Addr, b.Addr, unix.IPPROTO_UDP, udp(mark))...)
	for name, test := range map[string]struct {
		frame  []byte
		passes bool
	}{
		"its own IPv4":                {long, true},
		"another guest's IPv4":        {ether(macB, macA, etherIPv4, ip4(c.Addr, b.Addr, unix.IPPROTO_UDP, udp(mark))...), false},
		"the gateway's IPv4":          {ether(macB, macA, etherIPv4, ip4(gateway, b.Addr, unix.IPPROTO_UDP, udp(mark))...), false},
		"an IPv4 from outside":        {ether(macB, macA, etherIPv4, ip4(outsideAddr, b.Addr, unix.IPPROTO_UDP, udp(mark))...), false},
		"no IPv4 yet":                 {ether(broadcast, macA, etherIPv4, ip4(netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"), unix.IPPROTO_UDP, datagram(68, 67, mark))...), false},
		"another guest's MAC":         {ether(macB, macC, etherIPv4, ip4(a.Addr, b.Addr, unix.IPPROTO_UDP, udp(mark))...), false},
		"another guest's MAC and IP":  {ether(macB, macC, etherIPv4, ip4(c.Addr, b.Addr, unix.IPPROTO_UDP, udp(mark))...), false},
		"the bridge's MAC":            {ether(macB, testInstance.BridgeMAC(), etherIPv4, ip4(gateway, b.Addr, unix.IPPROTO_UDP, udp(mark))...), false},
		"a DHCP server":               {ether(macB, macA, etherIPv4, ip4(a.Addr, b.Addr, unix.IPPROTO_UDP, datagram(67, 68, mark))...), false},
		"a VLAN":                      {tagged(long, 5), false},
		"a VLAN's priority":           {tagged(long, 0), false},
		"a VLAN in a VLAN":            {tagged(tagged(long, 5), 6), false},
		"its own ARP":                 {ether(macB, macA, etherARP, arpPacket(2, macA, a.Addr, b.Addr, mark)...), true},
		"ARP for another guest":       {ether(macB, macA, etherARP, arpPacket(2, macA, c.Addr, b.Addr, mark)...), false},
		"ARP for the gateway":         {ether(macB, macA, etherARP, arpPacket(2, macA, gateway, b.Addr, mark)...), false},
		"ARP with another's MAC":      {ether(macB, macA, etherARP, arpPacket(2, macC, a.Addr, b.Addr, mark)...), false},
		"ARP from another's MAC":      {ether(macB, macC, etherARP, arpPacket(2, macA, a.Addr, b.Addr, mark)...), false},
		"ARP of another size":         {ether(macB, macA, etherARP, wrong...), false},
		"ARP about another network":   {ether(macB, macA, etherARP, arpPacket(1, macA, a.Addr, outsideAddr, mark)...), false},
		"its own IPv6":                {ether(macB, macA, etherIPv6, ip6(local6(macA), local6(macB), unix.IPPROTO_UDP, udp(mark))...), true},
		"another guest's IPv6":        {ether(macB, macA, etherIPv6, ip6(local6(macC), local6(macB), unix.IPPROTO_UDP, udp(mark))...), false},
		"a global IPv6":               {ether(macB, macA, etherIPv6, ip6(netip.MustParseAddr("2001:db8::1"), local6(macB), unix.IPPROTO_UDP, udp(mark))...), false},
		"another's MAC in IPv6":       {ether(macB, macC, etherIPv6, ip6(local6(macA), local6(macB), unix.IPPROTO_UDP, udp(mark))...), false},
		"a DHCPv6 server":             {ether(macB, macA, etherIPv6, ip6(local6(macA), local6(macB), unix.IPPROTO_UDP, datagram(547, 546, mark))...), false},
		"a router":                    {ether(macB, macA, etherIPv6, ip6(local6(macA), all6, unix.IPPROTO_ICMPV6, icmp6(134, none6, mark))...), false},
		"a router behind a header":    {ether(macB, macA, etherIPv6, ip6(local6(macA), all6, 0, hop(unix.IPPROTO_ICMPV6, icmp6(134, none6, mark)))...), false},
		"a redirect":                  {ether(macB, macA, etherIPv6, ip6(local6(macA), local6(macB), unix.IPPROTO_ICMPV6, icmp6(137, none6, mark))...), false},
		"a look for its address":      {ether(macB, macA, etherIPv6, ip6(none6, all6, unix.IPPROTO_ICMPV6, icmp6(135, local6(macA), mark))...), true},
		"a look for a neighbour":      {ether(macB, macA, etherIPv6, ip6(local6(macA), all6, unix.IPPROTO_ICMPV6, icmp6(135, local6(macB), mark))...), true},
		"itself as a neighbour":       {ether(macB, macA, etherIPv6, ip6(local6(macA), all6, unix.IPPROTO_ICMPV6, icmp6(136, local6(macA), mark))...), true},
		"another as a neighbour":      {ether(macB, macA, etherIPv6, ip6(local6(macA), all6, unix.IPPROTO_ICMPV6, icmp6(136, local6(macC), mark))...), false},
		"another, behind a header":    {ether(macB, macA, etherIPv6, ip6(local6(macA), all6, 0, hop(unix.IPPROTO_ICMPV6, icmp6(136, local6(macC), mark)))...), false},
		"a neighbour from nowhere":    {ether(macB, macA, etherIPv6, ip6(none6, all6, unix.IPPROTO_ICMPV6, icmp6(136, local6(macA), mark))...), false},
		"another protocol":            {ether(macB, macA, 0x88b5, []byte(mark)...), false},
		"PPPoE":                       {ether(broadcast, macA, 0x8863, []byte(mark)...), false},
		"IPv4 without a header":       {ether(macB, macA, etherIPv4, []byte(mark)...), false},
		"IPv6 without a header":       {ether(macB, macA, etherIPv6, []byte(mark)...), false},
		"ARP without an end":          {ether(macB, macA, etherARP, append([]byte{0, 1, 8, 0, 6, 4}, mark...)...), false},
		"a length instead of a type":  {ether(macB, macA, 6, []byte(mark)...), false},
		"a frame for bridges":         {ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0xe}, macC, 0x88cc, []byte(mark)...), false},
		"a frame for spanning trees":  {ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, macC, 0x88cc, []byte(mark)...), false},
		"its own frame for a bridge":  {ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 3}, macA, 0x888e, []byte(mark)...), false},
		"its own frame for a bridge2": {ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 1}, macA, 0x8808, []byte(mark)...), false},
	} {
		a.forge(t, test.frame)
		if seen := b.seesFrom(t, a, mark); seen != test.passes {
			t.Errorf("%s: another guest sees it: %v, want %v", name, seen, test.passes)
		}
	}
	learned(t, macC, network.Tap(c.ID))
}

// seesFrom reports whether a frame with mark came before one that from sends now.
func (g *guest) seesFrom(t *testing.T, from *guest, mark string) bool {
	t.Helper()
	from.forge(t, ether(network.MAC(g.ID), network.MAC(from.ID), etherIPv4, ip4(from.Addr, g.Addr, unix.IPPROTO_UDP, datagram(9, 9, "LAST"))...))
	return g.sees(t, mark, "LAST")
}

// seesNow reports whether a frame with mark came before an answer of the host to g.
func (g *guest) seesNow(t *testing.T, mark string) bool {
	t.Helper()
	last := fmt.Sprintf("LAST-%09d", lasts.Add(1))
	g.forge(t, ether(testInstance.BridgeMAC(), network.MAC(g.ID), etherIPv4,
		ip4(g.Addr, network.Gateway(testSubnet), unix.IPPROTO_ICMP, ping(last))...))
	return g.sees(t, mark, last)
}

var lasts atomic.Int32

// learned fails when the bridge has learned a MAC at another port than its own.
func learned(t *testing.T, mac net.HardwareAddr, at string) {
	t.Helper()
	list, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		t.Fatal(err)
	}
	port, err := netlink.LinkByName(at)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if n.HardwareAddr.String() == mac.String() && n.LinkIndex != port.Attrs().Index {
			t.Errorf("the bridge has learned %v at link %d instead of %s", mac, n.LinkIndex, at)
		}
	}
}

// TestUsernet has a namespace in the place of the user-mode stack.
func TestUsernet(t *testing.T) {
	if !inside(t) {
		return
	}
	w := plan(network.Usernet, 2)
	w.Guests[1].Egress = false
	uplink, err := OpenUplink(w.Instance)
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, w)
	if _, err := OpenUplink(w.Instance); err == nil || !strings.Contains(err.Error(), "another process has the uplink") {
		t.Errorf("a second stack on the uplink: %v", err)
	}
	stack := newSpace(t)
	stack.Must(t, func() error {
		card, err := openExisting("stack0")
		if err != nil {
			return err
		}
		go wire(card, uplink, nil)
		go wire(uplink, card, nil)
		link, err := netlink.LinkByName("stack0")
		if err != nil {
			return err
		}
		for _, addr := range []string{network.UplinkGateway.String() + "/30", "203.0.113.1/32"} {
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(addr))}); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: network.UplinkAddr.AsSlice()})
	})
	askers := stack.answer(t, "198.51.100.1:53")
	peers := make(chan string, 9)
	stack.Must(t, func() error {
		for _, at := range []string{"198.51.100.1:53", "203.0.113.1:7"} {
			l, err := net.Listen("tcp4", at)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					peers <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
					conn.Write([]byte("hello"))
				}
			}()
		}
		return nil
	})
	gateway, far := network.Gateway(w.Subnet), netip.MustParseAddr("203.0.113.1")
	for i, g := range w.Guests {
		g := boot(t, w, g)
		expect(t, "names", g.reach(gateway, 53), "")
		expect(t, "who asks for names", <-peers, g.Addr.String())
		expect(t, "names by UDP", g.ask(gateway, 53), "")
		expect(t, "who asks for names by UDP", <-askers, g.Addr.String())
		expect(t, "the stack itself by UDP", g.ask(network.UplinkGateway, 53), unreachable)
		expect(t, "the stack itself", g.reach(network.UplinkGateway, 53), refused)
		expect(t, "the uplink", g.reach(network.UplinkAddr, 22), refused)
		if i == 0 {
			expect(t, "egress", g.reach(far, 7), "")
			expect(t, "who comes outside", <-peers, g.Addr.String())
		} else {
			expect(t, "no egress", g.reach(far, 7), refused)
		}
		if i == 1 {
			uplink.Close() // the stack dies
			w.Guests[1].Egress = true
			mustApply(t, w)
			expect(t, "without the stack", g.reach(far, 7), "no network")
		}
	}
}

func TestCounters(t *testing.T) {
	if !inside(t) {
		return
	}
	w := plan(network.Bridge, 2)
	mustApply(t, w)
	a, b := boot(t, w, w.Guests[0]), boot(t, w, w.Guests[1])
	b.serve(t, ":7")
	before, err := Counters(w.Instance)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := a.dial(fmt.Sprintf("%v:7", b.Addr))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "guest to guest", echo(conn, strings.Repeat("x", 50_000)), "")
	after, err := Counters(w.Instance)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 2 {
		t.Errorf("counters of %d guests, want 2: %v", len(after), after)
	}
	sent := after[a.ID].Sent - before[a.ID].Sent
	received := after[b.ID].Received - before[b.ID].Received
	if sent < 50_000 || received < 50_000 || sent > 100_000 || received > 100_000 {
		t.Errorf("50,000 bytes are %d sent and %d received", sent, received)
	}
	if none, err := Counters(otherOne); err != nil || len(none) != 0 {
		t.Errorf("counters of another instance: %v, %v", none, err)
	}
}

// TestOwner shows that a TAP's owner opens it without any capability, and only it.
func TestOwner(t *testing.T) {
	if !inside(t) {
		return
	}
	w := plan(network.Bridge, 1)
	mustApply(t, w)
	withoutCapabilities(t, func() {
		tap, err := openExisting(network.Tap(w.Guests[0].ID))
		if err != nil {
			t.Errorf("the owner's own TAP: %v", err)
			return
		}
		tap.Close()
		if _, err := openExisting("bgmine"); err == nil {
			t.Error("a TAP can be made without a capability: the test shows nothing")
		}
	})
	links, err := dump(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == "bgmine" }) {
		t.Error("the failed TAP is there")
	}
}

// TestUplinkThatEnds: the process that has the uplink may be killed while a change is on
// its way, which succeeds all the same.
func TestUplinkThatEnds(t *testing.T) {
	if !inside(t) {
		return
	}
	w := plan(network.Usernet, 2)
	mustApply(t, w)
	uplink, err := OpenUplink(w.Instance)
	if err != nil {
		t.Fatal(err)
	}
	a := &applier{ctx: context.Background(), Wanted: w}
	links, err := a.links()
	if err != nil {
		t.Fatal(err)
	}
	link := links[w.Instance.Uplink()]
	if err := netlink.LinkSetMTU(link, 1500); err != nil { // else nothing has to be changed
		t.Fatal(err)
	}
	if links, err = a.links(); err != nil {
		t.Fatal(err)
	}
	uplink.Close()
	if err := a.ensureLinks(links); err != nil {
		t.Error(err)
	}
}
