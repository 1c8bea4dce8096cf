// Package instance owns the network of one daemon while it runs: which mode the host
// allows, the subnet, the namespace of a plain user, and what the kernel and the helper
// are told. It applies the whole wanted network at each change and keeps no state that
// the VMs and the kernel do not have.
//
// It does not own links and rules (package apply), packets and names (package helper), or
// which VM may have what (package vm).
package instance

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"banger"
	"banger/internal/config"
	"banger/internal/network"
	"banger/internal/network/apply"
	"banger/internal/network/helper"
	"banger/internal/network/namespace"
	"banger/internal/network/resolved"
	"banger/internal/operation"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Config is what a network stands on.
type Config struct {
	Dirs   config.Dirs
	Subnet func(context.Context) (netip.Prefix, error)   // the recorded one, which may be missing
	Record func(context.Context, netip.Prefix) error     // records a chosen one
	Owner  func(dir string, id banger.VMID) (int, error) // the uid of a VM's VMM
	// Account returns who the helper runs as, which is never root.
	Account func() (process.Account, error)
	Root    bool
	Host    resolved.Resolved // the host's, which a bridge is told to
	Log     *slog.Logger
}

// Network is a daemon's network. Its methods may be called at any time.
type Network struct {
	Config
	instance network.Instance
	subnet   atomic.Pointer[netip.Prefix]

	chosen chan struct{} // closed once mode and why are known
	look   sync.Mutex    // held for mode and why, which may change from None to another
	mode   network.Mode
	why    error // why it is None

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	looking  sync.Mutex // one look at the host's routes at a time
	conflict atomic.Pointer[network.Note]

	once    sync.Once
	adopted chan struct{} // closed once what runs is known: a change before that would end its network

	mu      sync.Mutex // one change at a time
	told    int        // the link of which the host's resolver was told; 0: none
	ns      *network.Namespace
	guests  map[banger.VMID]guest
	names   map[banger.VMID]helper.Name
	helper  *process.Process
	restart restart
	noted   map[string]bool
}

// guest is a VM that has a card now.
type guest struct {
	network.Guest
	pid int // of its VMM; 0 before that is known
}

// Open begins to find out which network this host allows, which takes a moment for a
// plain user. It changes nothing yet: no VM may need one.
func Open(ctx context.Context, c Config) (*Network, error) {
	n := &Network{Config: c, chosen: make(chan struct{}), adopted: make(chan struct{}), instance: network.InstanceOf(c.Dirs.State), guests: map[banger.VMID]guest{}, names: map[banger.VMID]helper.Name{}, noted: map[string]bool{}}
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	subnet, err := c.Subnet(ctx)
	if err != nil {
		return nil, err
	}
	n.subnet.Store(&subnet)
	if !subnet.IsValid() {
		if subnet, err = chooseSubnet(n.instance, nil); err != nil {
			subnet = netip.Prefix{}
			return n.without(err), nil
		}
		if err := c.Record(ctx, subnet); err != nil {
			return nil, err
		}
	}
	go func() {
		mode, why := choose(n.ctx, c.Root)
		if mode == network.None {
			n.without(why)
			return
		}
		n.mode = mode
		close(n.chosen)
	}()
	return n, nil
}

// without makes n one that gives no VM a card.
func (n *Network) without(why error) *Network {
	n.Log.Warn("VMs have no network", "why", why, "fix", banger.FixOf(why))
	n.mode, n.why = network.None, why
	close(n.chosen)
	return n
}

// usable returns why VMs have no network. It looks again first: somebody may have changed
// the host since.
func (n *Network) usable(ctx context.Context) error {
	if n.Why() == nil {
		return nil
	}
	if !n.Subnet().IsValid() {
		return n.Why() // names and addresses follow from it, so only the next daemon can choose one
	}
	mode, why := choose(ctx, n.Root)
	n.look.Lock()
	defer n.look.Unlock()
	if n.why != nil { // else the start of another VM has been quicker
		n.mode, n.why = mode, why
	}
	return n.why
}

// OfferOf returns the network that the VMs of a state directory can have on this host. It
// tries all that they need, and leaves nothing.
func OfferOf(ctx context.Context, stateDir string, root bool) network.Offer {
	mode, why := choose(ctx, root)
	i := network.InstanceOf(stateDir)
	offer := network.Offer{Mode: mode, Resolver: helper.HostAddr(i)}
	if why != nil {
		offer.Why, offer.Fix = operation.Plain(why).Error(), banger.FixOf(why)
	}
	if offer.Conflict, why = conflictOf(config.Dirs{State: stateDir}.Net(), i); why != nil {
		offer.Conflict = &network.Note{Text: why.Error()}
	}
	return offer
}

// choose returns the best mode that this host allows, or None and the reason.
func choose(ctx context.Context, root bool) (network.Mode, error) {
	if root {
		if err := namespace.CheckDevice(true); err != nil {
			return network.None, err
		}
		if err := apply.Check(); err != nil {
			return network.None, err
		}
		return network.Bridge, nil
	}
	if err := namespace.Check(ctx); err != nil {
		return network.None, err
	}
	return network.Usernet, nil
}

// lock takes mu once Adopt has ended.
func (n *Network) lock(ctx context.Context) error {
	select {
	case <-n.adopted:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.ctx.Done():
		return errClosed
	}
	n.mu.Lock()
	if n.ctx.Err() != nil {
		n.mu.Unlock()
		return errClosed
	}
	return nil
}

var errClosed = errors.New("the daemon is ending")

// Mode returns the mode of this host.
func (n *Network) Mode() network.Mode {
	<-n.chosen
	n.look.Lock()
	defer n.look.Unlock()
	return n.mode
}

// Why returns why there is no network, or nil.
func (n *Network) Why() error {
	<-n.chosen
	n.look.Lock()
	defer n.look.Unlock()
	return n.why
}

// Addr returns the address of a VM with a slot.
func (n *Network) Addr(slot int) netip.Addr {
	a, err := network.Addr(n.Subnet(), slot)
	if err != nil {
		return netip.Addr{}
	}
	return a
}

// Subnet returns the subnet of the guests.
func (n *Network) Subnet() netip.Prefix { return *n.subnet.Load() }

// MTU returns the largest packet of the guests' cards.
func (n *Network) MTU() int {
	if n.Mode() == network.Usernet {
		return network.UplinkMTU
	}
	return defaultMTU
}

const defaultMTU = 1500

// Attach readies the network for a VM that is about to start: its TAP, its rules and
// its name. It returns notes about what hinders guests on this host.
func (n *Network) Attach(ctx context.Context, dir string, g network.Guest) (*vmm.NIC, *vmm.Namespace, []network.Note, error) {
	if err := n.usable(ctx); err != nil {
		return nil, nil, nil, err
	}
	if n.Root {
		uid, err := n.Owner(dir, g.ID)
		if err != nil {
			return nil, nil, nil, err
		}
		g.Owner = uid
	}
	if err := n.lock(ctx); err != nil {
		return nil, nil, nil, err
	}
	defer n.mu.Unlock()
	n.guests[g.ID] = guest{Guest: g}
	notes, err := n.settle(ctx)
	if err != nil {
		delete(n.guests, g.ID)
		return nil, nil, nil, errors.Join(err, n.takeBack(ctx))
	}
	return &vmm.NIC{Tap: network.Tap(g.ID), MAC: network.MAC(g.ID), MTU: n.MTU()}, n.ns, append(notes, n.inTheWay()...), nil
}

// inTheWay returns the conflict that there is, once. The caller holds mu.
func (n *Network) inTheWay() []network.Note {
	n.lookForConflict()
	if note := n.Conflict(); note != nil {
		return n.fresh([]network.Note{*note})
	}
	return nil
}

// takeBack removes what a failed Attach has left of its VM.
func (n *Network) takeBack(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if len(n.guests) == 0 {
		return n.empty(ctx)
	}
	_, err := n.apply(ctx, namespace.Request{}) // the helper knows of no VM before it is launched
	return err
}

// Launched tells which process a VM's VMM is: the helper lives as long as it does.
func (n *Network) Launched(id banger.VMID, pid int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	g, ok := n.guests[id]
	if !ok {
		return nil
	}
	g.pid = pid
	n.guests[id] = g
	return n.tellHelper()
}

// Set changes what a VM that has a card may reach, at once. Its connections to what it
// may not reach any more end.
func (n *Network) Set(ctx context.Context, id banger.VMID, egress, isolated bool) error {
	if err := n.lock(ctx); err != nil {
		return err
	}
	defer n.mu.Unlock()
	was, ok := n.guests[id]
	if !ok || was.Egress == egress && was.Isolated == isolated {
		return nil
	}
	now := was
	now.Egress, now.Isolated = egress, isolated
	n.guests[id] = now
	if _, err := n.settle(ctx); err != nil { // the kernel may have followed all the same
		n.guests[id] = was
		_, failed := n.apply(context.WithoutCancel(ctx), namespace.Request{})
		return errors.Join(err, failed)
	}
	return nil
}

// Detach removes a VM that has ended from the network, and returns what it has
// transferred. The last one takes everything with it.
func (n *Network) Detach(ctx context.Context, id banger.VMID) (network.Traffic, error) {
	if err := n.lock(ctx); err != nil {
		return network.Traffic{}, err
	}
	defer n.mu.Unlock()
	if _, ok := n.guests[id]; !ok {
		return network.Traffic{}, nil
	}
	traffic, err := n.traffic(ctx)
	if err != nil {
		n.Log.Warn("read a VM's traffic", "id", id, "err", err)
	}
	delete(n.guests, id)
	_, err = n.settle(ctx)
	return traffic[id], err
}

// Name gives a VM its name; Forget takes it away.
func (n *Network) Name(id banger.VMID, name string, slot int, egress bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[id] = helper.Name{ID: id, Name: name, Addr: n.Addr(slot), Egress: egress}
	return n.tellHelper()
}

// Forget takes a VM's name away.
func (n *Network) Forget(id banger.VMID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.names, id)
	return n.tellHelper()
}

// Traffic returns what each VM with a card has transferred in this run.
func (n *Network) Traffic(ctx context.Context) (map[banger.VMID]network.Traffic, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.traffic(ctx)
}

func (n *Network) traffic(ctx context.Context) (traffic map[banger.VMID]network.Traffic, err error) {
	if n.Mode() == network.None || n.Mode() == network.Usernet && n.ns == nil {
		return nil, nil
	}
	got, err := namespace.Run(ctx, n.ns, namespace.Request{Counters: n.instance})
	if err != nil {
		return nil, err
	}
	return traffic, json.Unmarshal(got.Counters, &traffic)
}

// Close lets go of the network. The VMs keep it.
func (n *Network) Close() error {
	n.cancel() // a change that waits for something ends now
	n.mu.Lock()
	defer n.mu.Unlock()
	var err error
	if n.helper != nil {
		err = n.helper.Close()
	}
	if n.ns != nil {
		err = errors.Join(err, n.ns.Close())
	}
	return err
}

// settle makes the kernel and the helper equal to what is wanted. The caller holds mu.
func (n *Network) settle(ctx context.Context) (notes []network.Note, err error) {
	if len(n.guests) == 0 {
		return nil, n.empty(ctx)
	}
	request := namespace.Request{}
	if n.Mode() == network.Usernet && n.helper == nil {
		request.Uplink = n.instance
	}
	got, err := n.apply(ctx, request)
	if err != nil {
		return nil, err
	}
	if got.Uplink != nil {
		defer got.Uplink.Close()
	}
	var result apply.Result
	if err := json.Unmarshal(got.Applied, &result); err != nil {
		return nil, err
	}
	if err := n.serve(ctx, got.Uplink); err != nil {
		return nil, err
	}
	n.tellHost(ctx)
	return n.fresh(result.Notes), nil
}

// empty removes everything: no VM has a card.
func (n *Network) empty(ctx context.Context) error {
	var err error
	if n.helper != nil {
		err = helper.End(n.helper)
		n.helper = nil
	}
	err = errors.Join(err, helper.Forget(n.Dirs.Net()))
	if n.Mode() == network.Bridge {
		n.untellHost(ctx)
		_, failed := n.apply(ctx, namespace.Request{})
		return errors.Join(err, failed)
	}
	if n.ns != nil { // with its last descriptor everything in it goes
		err = errors.Join(err, n.ns.Close())
		n.ns = nil
	}
	return err
}

// apply makes the kernel equal to what is wanted, in a new namespace if there is none.
func (n *Network) apply(ctx context.Context, request namespace.Request) (got namespace.Result, err error) {
	wanted := n.wanted()
	request.Apply = &wanted
	if n.Mode() == network.Usernet && n.ns == nil {
		n.ns, got, err = namespace.Make(ctx, request)
		return got, err
	}
	return namespace.Run(ctx, n.ns, request)
}

func (n *Network) wanted() network.Wanted {
	w := network.Wanted{Instance: n.instance, Mode: n.Mode(), Subnet: n.Subnet(), MTU: n.MTU()}
	for _, id := range slices.Sorted(maps.Keys(n.guests)) {
		w.Guests = append(w.Guests, n.guests[id].Guest)
	}
	return w
}

// fresh returns the notes that were not given before.
func (n *Network) fresh(notes []network.Note) []network.Note {
	return slices.DeleteFunc(notes, func(note network.Note) bool {
		said := n.noted[note.Text]
		n.noted[note.Text] = true
		return said
	})
}

// serve makes sure that the helper runs and knows everything.
func (n *Network) serve(ctx context.Context, uplink *os.File) error {
	if n.helper != nil {
		return n.tellHelper()
	}
	account, err := n.Account()
	if err != nil {
		return err
	}
	config := helper.Config{Dir: n.Dirs.Net(), State: n.state(), Uplink: uplink, Account: account, Log: n.Log}
	p, err := helper.Start(ctx, config)
	if errors.Is(err, helper.ErrRuns) { // one that an earlier daemon was about to start
		if err := endHelper(n.Dirs.Net()); err != nil {
			return err
		}
		p, err = helper.Start(ctx, config)
	}
	if err != nil {
		return err
	}
	n.watch(p)
	return nil
}

// endHelper ends the helper that runs in dir, if one does.
func endHelper(dir config.NetDir) error {
	p, err := helper.Find(dir)
	if errors.Is(err, vmm.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	return helper.End(p)
}

// tellHelper writes the helper's file.
func (n *Network) tellHelper() error {
	if n.helper == nil {
		return nil
	}
	return helper.WriteState(n.Dirs.Net(), n.state())
}

func (n *Network) state() helper.State {
	s := helper.State{Instance: n.instance, Mode: n.Mode(), Subnet: n.Subnet(), Names: slices.Collect(maps.Values(n.names)), Needed: []int{os.Getpid()}}
	slices.SortFunc(s.Names, func(a, b helper.Name) int { return strings.Compare(a.Name, b.Name) })
	for _, g := range n.guests {
		if g.pid != 0 {
			s.Needed = append(s.Needed, g.pid)
		}
	}
	return s
}
