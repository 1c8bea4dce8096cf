package forward

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"banger"
)

// reason is why an address was not had, and what to do.
type reason struct{ why, fix string }

// describe returns the VM's ports with what became of its claims.
func (v *vm) describe(p *plan) []banger.Forward {
	rows := map[uint16]*banger.Forward{}
	row := func(number uint16) *banger.Forward {
		if rows[number] == nil {
			found, listens := v.find(number)
			rows[number] = &banger.Forward{Port: number, Program: found.Program, Listening: listens, Addresses: []netip.AddrPort{}}
		}
		return rows[number]
	}
	for i, listens := range v.ports {
		r := row(listens.number)
		switch {
		case !v.Auto:
			addReason(r, reason{why: "only published ports are forwarded"})
		case i >= MaxPorts:
			addReason(r, reason{why: fmt.Sprintf("only %d ports of a VM are forwarded", MaxPorts)})
		}
	}
	for _, c := range p.claims {
		if c.vm != v {
			continue
		}
		r := row(c.port)
		if c.rank == published {
			r.Published = true
		}
		if c.granted() {
			r.Addresses = append(r.Addresses, c.at...)
		}
		addReason(r, c.reason(p))
	}
	list := make([]banger.Forward, 0, len(rows))
	for _, r := range rows {
		if !v.Auto && len(r.Addresses) > 0 {
			r.Why = "" // it is published, so nothing is missing
		}
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b banger.Forward) int { return cmp.Compare(a.Port, b.Port) })
	return list
}

func addReason(r *banger.Forward, add reason) {
	switch {
	case add.why == "" || r.Why == add.why:
		return
	case r.Why == "":
		r.Why = add.why
	default:
		r.Why += "; " + add.why
	}
	r.Fix = cmp.Or(r.Fix, add.fix)
}

// reason returns why a claim has not got what it wants, if so.
func (c *claim) reason(p *plan) reason {
	switch {
	case c.forbidden && c.granted():
		return lowPort(c.port, fmt.Sprintf("%d stands in for %d", standIn(c.port), c.port))
	case c.forbidden && len(c.at) == 0:
		return lowPort(c.port, fmt.Sprintf("%d, which would stand in for %d, is the guest's own", standIn(c.port), c.port))
	case c.err != nil:
		return explain(c.err, c.at)
	case c.holder == nil:
		return reason{}
	case c.holder.err != nil:
		return explain(c.holder.err, c.at)
	case c.holder.vm != c.vm:
		return reason{why: fmt.Sprintf("VM %q has %s", c.holder.vm.Name, place(c.at))}
	case c.holder.port != c.port:
		return reason{why: fmt.Sprintf("%s leads to port %d", place(c.at), c.holder.port)}
	}
	return reason{}
}

func lowPort(port uint16, what string) reason {
	const http = 80
	return reason{
		why: "this host forbids ports below 1024: " + what,
		fix: fmt.Sprintf("sudo sysctl net.ipv4.ip_unprivileged_port_start=%d", min(port, http)),
	}
}

// explain returns what an error of listening means.
func explain(err error, at []netip.AddrPort) reason {
	port := at[0].Port()
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return reason{"another program has " + place(at), fmt.Sprintf("ss -lntp 'sport = :%d'", port)}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return lowPort(port, fmt.Sprintf("%d is one", port))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return reason{fmt.Sprintf("%s is not an address of this host", at[0].Addr()), "ip address"}
	case noIPv6(err):
		return reason{"this host has no IPv6", "give an IPv4 address"}
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return reason{"the daemon has too many files open", "raise its limit: ulimit -n, or LimitNOFILE in its unit"}
	}
	return reason{why: fmt.Sprintf("listen on %s: %v", place(at), err)}
}

// place names addresses for a person.
func place(at []netip.AddrPort) string {
	if at[0].Addr() == loopback4 && len(at) > 1 {
		return "localhost:" + strconv.Itoa(int(at[0].Port()))
	}
	return at[0].String()
}
