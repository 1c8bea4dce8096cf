package instance

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"banger"
	"banger/internal/network"
)

// pool is where subnets come from: little used, and inside what everybody knows to be
// private.
var pool = netip.MustParsePrefix("10.192.0.0/10")

// known are parts of the pool that widespread software takes on other hosts, to which a
// VPN may lead.
var known = []netip.Prefix{
	netip.MustParsePrefix("10.244.0.0/16"), // pods of Kubernetes
	netip.MustParsePrefix("10.255.0.0/16"), // address blocks of VPNs and clouds
}

// chooseSubnet returns the instance's subnet: the first one, from a place that follows
// from the instance, that the host has no address in and no route to, and that is none
// of those to avoid.
func chooseSubnet(i network.Instance, avoid []netip.Prefix) (netip.Prefix, error) {
	taken, err := takenByHost(i.Bridge())
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("read the host's routes: %w", err)
	}
	return freeSubnet(i, slices.Concat(taken, known, avoid))
}

func freeSubnet(i network.Instance, taken []netip.Prefix) (netip.Prefix, error) {
	count := uint32(1) << (network.PrefixBits - pool.Bits())
	sum := fnv.New32a()
	sum.Write([]byte(i))
	first := pool.Addr().As4()
	for k := range count {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(first[:])+(sum.Sum32()+k)%count<<(32-network.PrefixBits))
		if subnet := netip.PrefixFrom(netip.AddrFrom4(a), network.PrefixBits); !overlaps(subnet, taken) {
			return subnet, nil
		}
	}
	return netip.Prefix{}, &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("the host has addresses in or routes to all of %v", pool), Fix: "ip route"}
}

func overlaps(subnet netip.Prefix, taken []netip.Prefix) bool {
	return conflict(subnet, taken).IsValid()
}

// conflict returns what of the taken prefixes overlaps the subnet, or the zero Prefix.
func conflict(subnet netip.Prefix, taken []netip.Prefix) netip.Prefix {
	for _, t := range taken {
		// A route to much more than the subnet is the way to the rest of it.
		if t.Bits() >= pool.Bits() && t.Overlaps(subnet) {
			return t
		}
	}
	return netip.Prefix{}
}

// takenByHost returns the host's own subnets and what it has routes to, except by the
// link with a name: the instance's own bridge.
func takenByHost(except string) ([]netip.Prefix, error) {
	text, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, err
	}
	taken := parseRoutes(text, except)
	addrs, err := hostAddrs(except)
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		if p, err := netip.ParsePrefix(addr.String()); err == nil && p.Addr().Is4() {
			taken = append(taken, p.Masked())
		}
	}
	return taken, nil
}

// hostAddrs returns the addresses of all links but one.
func hostAddrs(except string) (all []net.Addr, _ error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		if link.Name == except {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		all = append(all, addrs...)
	}
	return all, nil
}

// parseRoutes returns the destinations in the kernel's table of IPv4 routes, except
// those by one link.
func parseRoutes(text []byte, except string) (routes []netip.Prefix) {
	const link, destination, mask = 0, 1, 7
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) <= mask || fields[link] == except {
			continue
		}
		to, err1 := hex.DecodeString(fields[destination])
		of, err2 := hex.DecodeString(fields[mask])
		if err1 != nil || err2 != nil || len(to) != 4 || len(of) != 4 {
			continue // the heading
		}
		addr := netip.AddrFrom4([4]byte{to[3], to[2], to[1], to[0]}) // the host's byte order
		routes = append(routes, netip.PrefixFrom(addr, bits.OnesCount32(binary.BigEndian.Uint32(of))))
	}
	return routes
}
