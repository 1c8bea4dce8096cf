package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"banger"
)

// Check returns an error if the ports cannot be published for a VM: an Invalid one if
// they exclude each other, a Conflict if another VM or another program has one of them,
// and an Unready one if the host forbids it. It asks the host, so a port may be taken a
// moment later: List tells.
func (f *Forwards) Check(id banger.VMID, ports []banger.Publish) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, p := range ports {
		if q, found := overlapping(p, ports[:i]); found {
			return banger.Invalidf("give each port of the host once", "ports %s and %s are the same on the host", q, p)
		}
		for _, v := range f.vms {
			if q, found := overlapping(p, v.Published); found && v.id != id {
				return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("port %s: VM %q publishes %s", p, v.Name, q), Fix: anotherPort(p)}
			}
		}
		if err := f.try(addressesOf(p)); err != nil {
			return refused(p, err)
		}
	}
	return nil
}

// overlapping returns a published port that needs an address which p needs as well.
func overlapping(p banger.Publish, among []banger.Publish) (banger.Publish, bool) {
	at := slices.IndexFunc(among, func(q banger.Publish) bool {
		return slices.ContainsFunc(addressesOf(q), func(a netip.AddrPort) bool { return slices.Contains(addressesOf(p), a) })
	})
	if at < 0 {
		return banger.Publish{}, false
	}
	return among[at], true
}

// anotherPort is a command line for a port of the host that nobody is known to have.
func anotherPort(p banger.Publish) string {
	const step = 1000
	if p.Host < 65535-step {
		p.Host += step
	} else {
		p.Host -= step
	}
	return "--port " + p.String()
}

// try listens for a moment, unless our own sockets are there: they give way.
func (f *Forwards) try(addresses []netip.AddrPort) error {
	for i, at := range addresses {
		if f.ours(at) {
			continue
		}
		l, err := f.listen(at)
		if err != nil && i > 0 && noIPv6(err) {
			continue
		}
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

// ours reports whether our own sockets are in the way of at.
func (f *Forwards) ours(at netip.AddrPort) bool {
	for have := range f.sockets {
		if have == at || have.Port() == at.Port() && have.Addr().Is4() == at.Addr().Is4() && (have == everywhere(at) || at == everywhere(have)) {
			return true
		}
	}
	return false
}

func refused(p banger.Publish, err error) error {
	r, kind := explain(err, addressesOf(p)), banger.Unready
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		kind = banger.Conflict
	case errors.Is(err, unix.EADDRNOTAVAIL):
		kind = banger.Invalid
	}
	return &banger.Error{Kind: kind, Why: fmt.Errorf("port %s: %s", p, r.why), Fix: r.fix}
}
