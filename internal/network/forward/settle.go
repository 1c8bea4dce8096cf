package forward

import (
	"errors"
	"net/netip"
	"reflect"

	"golang.org/x/sys/unix"

	"banger"
)

// target is where connections to an address of the host go.
type target struct {
	vm *vm
	to netip.AddrPort
}

// settle makes the sockets equal to what is wanted. The caller holds mu.
func (f *Forwards) settle() {
	f.dirty = false
	vms := make([]*vm, 0, len(f.vms))
	for _, v := range f.vms {
		vms = append(vms, v)
	}
	var p *plan
	for settled := false; !settled; {
		p = newPlan(vms, f.lowest(), f.failed)
		f.closeUnwanted(p)
		settled = f.open(p)
	}
	f.targets = map[netip.AddrPort]target{}
	for at, c := range p.holders {
		to, _ := c.vm.find(c.port)
		f.targets[at] = target{c.vm, to.At}
	}
	f.describe(p)
}

func (f *Forwards) closeUnwanted(p *plan) {
	wanted := map[netip.AddrPort]bool{}
	for at := range p.holders {
		wanted[p.socket(at)] = true
	}
	for at := range f.sockets {
		if !wanted[at] {
			f.closeSocket(at)
		}
	}
}

// open opens what is missing. It reports false if the plan has changed: an address that
// stands for all cannot be had, so each needs a socket of its own.
func (f *Forwards) open(p *plan) bool {
	for _, c := range p.claims {
		if !c.granted() {
			continue
		}
		err := f.openFor(p, c)
		if err == nil {
			continue
		}
		if c.at[0].Addr().IsUnspecified() {
			f.failed[c.at[0]] = err
			return false
		}
		for _, at := range c.at {
			if p.socket(at) == at {
				f.closeSocket(at)
			}
		}
		p.drop(c, err)
	}
	return true
}

func (f *Forwards) openFor(p *plan, c *claim) error {
	for i, at := range c.at {
		socket := p.socket(at)
		if f.sockets[socket] != nil {
			continue
		}
		l, err := f.listen(socket)
		if err != nil && i > 0 && noIPv6(err) {
			delete(p.holders, at)
			c.at = c.at[:i]
			return nil
		}
		if err != nil {
			return err
		}
		f.openSocket(socket, l)
	}
	return nil
}

// noIPv6 reports whether an error about ::1 means that the host has no IPv6.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// describe makes the rows of all VMs, and notes which have changed.
func (f *Forwards) describe(p *plan) {
	rows := map[*vm][]banger.Forward{}
	for id, v := range f.vms {
		rows[v] = v.describe(p)
		if !reflect.DeepEqual(rows[v], v.rows) {
			v.rows = rows[v]
			f.changed[id] = true
		}
	}
}
