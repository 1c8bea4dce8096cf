// Package dns is the resolver of an instance's guests. It answers for the domain vm and
// for the guests' addresses from a table in memory, and forwards everything else to the
// host's resolvers for the guests that have egress. It keeps no answers: the host's
// resolvers do. Who listens where, and where the table comes from, is its caller's part.
package dns

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Domain is the domain of the guests' names.
const Domain = "vm"

const apex = Domain + "."

// Name is a guest as the server knows it.
type Name struct {
	Name   string // a label, in lower case
	Addr   netip.Addr
	Egress bool // what is outside of Domain is looked up for it
}

// Table is what the server answers from. It never changes.
type Table struct {
	subnet netip.Prefix
	addrs  map[string]netip.Addr
	names  map[netip.Addr]string
	egress map[netip.Addr]bool
}

// NewTable returns the table of a subnet. Of two equal names, or addresses, the later one
// counts.
func NewTable(subnet netip.Prefix, names []Name) *Table {
	t := &Table{subnet: subnet.Masked(), addrs: map[string]netip.Addr{}, names: map[netip.Addr]string{}, egress: map[netip.Addr]bool{}}
	for _, n := range names {
		t.addrs[n.Name] = n.Addr
		t.names[n.Addr] = n.Name
		t.egress[n.Addr] = n.Egress
	}
	return t
}

// Askers are those who may use a socket.
type Askers string

// The askers. Packets of others get no answer.
const (
	Guests Askers = "guests" // addresses of the subnet, the host's own among them
	Host   Askers = "host"   // loopback addresses: for them nothing is forwarded
)

// serves reports whether a socket for these askers answers an address at all.
func (t *Table) serves(askers Askers, from netip.Addr) bool {
	if askers == Host {
		return from.IsLoopback()
	}
	return t.subnet.Contains(from)
}

// forwards reports whether an address may look up names that are not ours.
func (t *Table) forwards(askers Askers, from netip.Addr) bool {
	return askers == Guests && t.egress[from]
}

// lookup returns the answer to a question about a name of ours, and false if the name is
// not ours.
func (t *Table) lookup(q dnsmessage.Question) (answer, bool) {
	name := strings.ToLower(q.Name.String())
	if name == apex {
		return atApex(apex, q.Type), true
	}
	if below, ours := strings.CutSuffix(name, "."+apex); ours {
		// All names below a guest's are the guest: a web server tells them apart.
		addr, ok := t.addrs[below[strings.LastIndexByte(below, '.')+1:]]
		if !ok {
			return answer{rcode: dnsmessage.RCodeNameError, ours: true, soa: apex}, true
		}
		if q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeALL {
			return answer{ours: true, addr: addr}, true
		}
		return answer{ours: true, soa: apex}, true
	}
	if addr, ok := t.addrs[strings.TrimSuffix(name, ".")]; ok {
		// A guest that finds no IPv6 address of wombat.vm. asks for wombat. next, and would
		// wait for resolvers that cannot be reached.
		switch q.Type {
		case dnsmessage.TypeA:
			return answer{ours: true, addr: addr}, true
		case dnsmessage.TypeAAAA:
			return answer{ours: true, soa: name}, true
		}
	}
	return t.reverse(name, q.Type)
}

// reverse is lookup for the names of addresses. The zones are those of three bytes,
// since a subnet need not end at a byte.
func (t *Table) reverse(name string, asked dnsmessage.Type) (answer, bool) {
	const zones = ".in-addr.arpa."
	below, ok := strings.CutSuffix(name, zones)
	if !ok {
		return answer{}, false
	}
	labels := strings.Split(below, ".")
	if len(labels) < 3 {
		return answer{}, false
	}
	last := labels[len(labels)-3:]
	net, err := netip.ParseAddr(last[2] + "." + last[1] + "." + last[0] + ".0")
	if err != nil || !t.subnet.Contains(net) {
		return answer{}, false
	}
	zone := strings.Join(last, ".") + zones
	if len(labels) == 3 {
		return atApex(zone, asked), true
	}
	addr, err := netip.ParseAddr(last[2] + "." + last[1] + "." + last[0] + "." + labels[0])
	guest := t.names[addr]
	switch {
	case err != nil || len(labels) > 4 || guest == "":
		return answer{rcode: dnsmessage.RCodeNameError, ours: true, soa: zone}, true
	case asked == dnsmessage.TypePTR || asked == dnsmessage.TypeALL:
		return answer{ours: true, ptr: guest + "." + apex}, true
	}
	return answer{ours: true, soa: zone}, true
}

// atApex returns the answer to a question about the name of a zone.
func atApex(zone string, asked dnsmessage.Type) answer {
	if asked == dnsmessage.TypeSOA || asked == dnsmessage.TypeALL {
		return answer{ours: true, zone: zone}
	}
	return answer{ours: true, soa: zone}
}

// respond returns the answer to a packet, or, if the question has to be forwarded, only
// the query. It returns neither for a packet that gets no answer.
func (t *Table) respond(packet []byte, askers Askers, from netip.Addr) (reply []byte, forward *query) {
	if !t.serves(askers, from) {
		return nil, nil
	}
	q, problem := parse(packet)
	if q == nil {
		return nil, nil
	}
	q.recursion = t.forwards(askers, from)
	switch {
	case problem != dnsmessage.RCodeSuccess:
		return q.pack(answer{rcode: problem}), nil
	case q.question.Class != dnsmessage.ClassINET || transfers(q.question.Type):
		return q.pack(answer{rcode: dnsmessage.RCodeRefused}), nil
	}
	if a, ours := t.lookup(q.question); ours {
		return q.pack(a), nil
	}
	if !q.recursion {
		return q.pack(answer{rcode: dnsmessage.RCodeRefused}), nil
	}
	return nil, q
}

// transfers reports whether a question is for a whole zone.
func transfers(t dnsmessage.Type) bool {
	const incremental = 251
	return t == dnsmessage.TypeAXFR || t == incremental
}
