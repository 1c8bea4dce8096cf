package vm

import (
	"cmp"
	"context"
	"net/netip"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/network"
	"banger/internal/network/dns"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vmm"
)

// Network connects VMs. Its second implementation is NoNetwork.
type Network interface {
	Mode() network.Mode                                            // that VMs get on this host
	Why() error                                                    // why there is no better one; nil: it is the best
	Subnet() netip.Prefix                                          // of all VMs
	Addr(slot int) netip.Addr                                      // of the VM with a place in the subnet
	Name(id banger.VMID, name string, slot int, egress bool) error // makes a VM known to the others
	Forget(id banger.VMID) error

	// Attach readies the network for a VM that is about to start. It returns the VM's
	// card, where its VMM must run, and notes about what hinders guests on this host.
	Attach(ctx context.Context, dir string, g network.Guest) (*vmm.NIC, *vmm.Namespace, []network.Note, error)
	// Renumber gives the instance another subnet: the wanted one, or a free one if that is
	// zero. VMs keep their places. The guests are the caller's to tell.
	Renumber(ctx context.Context, wanted netip.Prefix) (netip.Prefix, error)
	Launched(id banger.VMID, pid int) error // tells the process that uses the card
	Set(ctx context.Context, id banger.VMID, egress, isolated bool) error
	Detach(ctx context.Context, id banger.VMID) (network.Traffic, error)
	Traffic(ctx context.Context) (map[banger.VMID]network.Traffic, error) // of the VMs that have a card, in this run

	// Conflict returns what on the host is in the way of the subnet, or nil. Watch calls
	// changed whenever that becomes another, until ctx ends.
	Conflict() *network.Note
	Watch(ctx context.Context, changed func())

	// Adopt takes over VMs that run and have a card, by the pids of their VMMs. It is
	// called once, also without VMs.
	Adopt(ctx context.Context, running map[int]network.Guest) error
}

// NoNetwork gives no VM a card.
type NoNetwork struct{ Reason error }

func (n NoNetwork) Mode() network.Mode                                 { return network.None }
func (n NoNetwork) Why() error                                         { return n.Reason }
func (n NoNetwork) Subnet() netip.Prefix                               { return netip.Prefix{} }
func (n NoNetwork) Addr(int) netip.Addr                                { return netip.Addr{} }
func (n NoNetwork) Name(banger.VMID, string, int, bool) error          { return nil }
func (n NoNetwork) Forget(banger.VMID) error                           { return nil }
func (n NoNetwork) Launched(banger.VMID, int) error                    { return nil }
func (n NoNetwork) Adopt(context.Context, map[int]network.Guest) error { return nil }
func (n NoNetwork) Traffic(context.Context) (map[banger.VMID]network.Traffic, error) {
	return nil, nil
}
func (n NoNetwork) Conflict() *network.Note                            { return nil }
func (n NoNetwork) Watch(context.Context, func())                      {}
func (n NoNetwork) Set(context.Context, banger.VMID, bool, bool) error { return nil }

func (n NoNetwork) Attach(context.Context, string, network.Guest) (*vmm.NIC, *vmm.Namespace, []network.Note, error) {
	return nil, nil, nil, n.Reason
}

func (n NoNetwork) Renumber(context.Context, netip.Prefix) (netip.Prefix, error) {
	return netip.Prefix{}, n.Reason
}

func (n NoNetwork) Detach(context.Context, banger.VMID) (network.Traffic, error) {
	return network.Traffic{}, nil
}

// noNetwork is the setting of a VM that shall have no network card.
const noNetwork = "none"

func checkNetwork(setting string) error {
	switch setting {
	case "", "auto", noNetwork:
		return nil
	}
	return banger.Invalidf("--network auto", "--network must be auto or none, not %q", setting)
}

// guestOf returns a VM as the network sees it.
func (v *VMs) guestOf(row store.VM) network.Guest {
	return network.Guest{ID: row.ID, Addr: v.Network.Addr(row.Slot), Egress: row.NAT, Isolated: row.Isolated}
}

// connect readies the network for the start. A VM whose network cannot be had starts
// without one.
func (s *starting) connect(ctx context.Context) error {
	s.boot.Network = network.None
	if s.row.Network == noNetwork {
		return nil
	}
	nic, inside, notes, err := s.v.Network.Attach(ctx, string(s.dir()), s.v.guestOf(s.row))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		why, fix := operation.Plain(err).Error(), banger.FixOf(err)
		s.Note(connectStep, withFix("the VM has no network: "+why, fix))
		if s.v.Network.Mode() != network.None {
			s.boot.NetworkWhy, s.boot.NetworkFix = why, fix
		}
		return nil
	}
	s.undo.Push(connectStep, func(ctx context.Context) error {
		_, err := s.v.Network.Detach(ctx, s.row.ID)
		return err
	})
	for _, note := range notes {
		s.Note(connectStep, withFix(note.Text, note.Fix))
	}
	s.nic, s.inside, s.boot.Network = nic, inside, s.v.Network.Mode()
	return nil
}

func withFix(text, fix string) string {
	if fix == "" {
		return text
	}
	return text + "; fix: " + fix
}

const connectStep = "connect the network"

// networkConfig returns what the guest is told about its network card.
func (s *starting) networkConfig() *wire.Network {
	if s.nic == nil {
		return nil
	}
	told := s.v.addressed(wire.Network{MAC: s.nic.MAC.String(), Domain: dns.Domain, MTU: s.nic.MTU}, s.row.Slot)
	s.boot.Told = &told
	return &told
}

// addressed returns n with the addresses of today's subnet.
func (v *VMs) addressed(n wire.Network, slot int) wire.Network {
	subnet := v.Network.Subnet()
	n.Addr = netip.PrefixFrom(v.Network.Addr(slot), subnet.Bits())
	n.Gateway, n.Resolver = network.Gateway(subnet), network.Gateway(subnet)
	return n
}

// disconnect takes a VM that has ended from the network, and adds what it has
// transferred to its record.
func (o *owner) disconnect(ctx context.Context, r *run) {
	if r.boot.Network == network.None || r.boot.Network == "" {
		return
	}
	traffic, err := o.v.Network.Detach(ctx, o.id)
	if err != nil {
		o.log().Warn("remove the network of a VM that has ended", "err", err)
	}
	received, sent := banger.Size(traffic.Received), banger.Size(traffic.Sent)
	if received == 0 && sent == 0 {
		return
	}
	err = o.save(func() error { return o.v.Store.AddTraffic(ctx, o.id, received, sent) }, func(row *store.VM) {
		row.Received, row.Sent = row.Received+received, row.Sent+sent
	})
	if err != nil {
		o.log().Warn("record a VM's traffic", "err", err)
	}
}

// describeNetwork describes the network that the VM has now or, if it does not run, will
// have. The caller holds mu.
func (o *owner) describeNetwork() banger.Network {
	row, mode := o.row, o.v.Network.Mode()
	n := banger.Network{NAT: row.NAT, Isolated: row.Isolated}
	switch {
	case o.run != nil && o.run.boot.Network != "":
		mode = o.run.boot.Network
	case row.Network == noNetwork:
		mode = network.None
	}
	n.Mode = string(mode)
	why := o.v.Network.Why()
	switch {
	case mode != network.None:
		n.Address, n.MAC = o.v.Network.Addr(row.Slot), network.MAC(o.id).String()
	case row.Network == noNetwork:
	case why != nil:
		n.Why, n.Fix = operation.Plain(why).Error(), banger.FixOf(why)
	case o.run != nil && o.run.boot.NetworkWhy != "":
		n.Why, n.Fix = o.run.boot.NetworkWhy, cmp.Or(o.run.boot.NetworkFix, "banger vm restart "+row.Name)
	default:
		n.Why, n.Fix = "there was none when it started", "banger vm restart "+row.Name
	}
	return n
}

// networkProblems returns what keeps a VM that shall have a network from having it. A
// host that allows none is no VM's problem. The caller holds the owner's mu.
func (r *run) networkProblems() []banger.Problem {
	problem := func(text, fix string) []banger.Problem {
		return []banger.Problem{{Kind: banger.ProblemNetwork, Text: text, Fix: cmp.Or(fix, "banger vm restart "+r.o.row.Name)}}
	}
	switch why := r.hello.NetworkWhy; {
	case r.boot.NetworkWhy != "":
		return problem("the VM has no network: "+r.boot.NetworkWhy, r.boot.NetworkFix)
	case why != "":
		return problem("the guest's network is not set up: "+why, "")
	}
	if note := r.o.v.Network.Conflict(); note != nil && r.boot.Network != network.None && r.boot.Network != "" {
		return problem(note.Text, note.Fix)
	}
	return nil
}

// tellAll publishes the VMs because what is in the way of their network has changed.
func (v *VMs) tellAll() {
	for _, o := range v.all() {
		o.mu.Lock()
		o.tell()
		o.mu.Unlock()
	}
}

// publishName makes the VM known by its name to the instance's guests.
func (o *owner) publishName() {
	row, _, _ := o.now()
	if err := o.v.Network.Name(o.id, row.Name, row.Slot, row.NAT); err != nil {
		o.log().Warn("publish the VM's name", "err", err)
	}
}

func (o *owner) withdrawName() {
	if err := o.v.Network.Forget(o.id); err != nil {
		o.log().Warn("withdraw the VM's name", "err", err)
	}
}

// connected returns the VMM that has the VM's card, or 0. It may be a stranger, whose VM
// would otherwise be without its card when the next daemon adopts it.
func (o *owner) connected() (pid int) {
	_, _, r := o.now()
	var b boot
	switch {
	case r != nil && r.alive():
		pid, b = r.machine.PID(), r.boot
	case r == nil:
		if locked, err := vmm.Locked(o.dir().Lock()); err != nil || !locked { // the usual case
			return 0
		}
		holder, err1 := vmm.Holder(o.dir().Lock())
		recorded, err2 := readBoot(o.dir())
		if err1 == nil && err2 == nil {
			pid, b = holder, recorded
		}
	}
	if b.Network == network.None || b.Network == "" {
		return 0
	}
	return pid
}

// releaseCard takes a VM from the network whose run, if it had one, was a stranger's.
func (o *owner) releaseCard(ctx context.Context) {
	if _, err := o.v.Network.Detach(context.WithoutCancel(ctx), o.id); err != nil {
		o.log().Warn("remove the network of a VM that has ended", "err", err)
	}
}

// adoptNetwork takes over the network of the VMs that run, also when none does.
func (v *VMs) adoptNetwork(ctx context.Context) {
	running := map[int]network.Guest{}
	for _, o := range v.all() {
		o.publishName()
		if pid := o.connected(); pid != 0 {
			row, _, _ := o.now()
			running[pid] = v.guestOf(row)
		}
	}
	if err := v.Network.Adopt(ctx, running); err != nil {
		v.Log.Error("reconcile: adopt the network", "err", err, "fix", banger.FixOf(err))
	}
}
