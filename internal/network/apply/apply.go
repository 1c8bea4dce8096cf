// Package apply makes the kernel of the current network namespace equal to a plan: the
// bridge, the guests' TAPs, addresses, forwarding and the firewall. It owns everything in
// the kernel that carries an instance's alias or name, and keeps no state of its own:
// what it needs to know about the past is in the kernel. A call may be killed at any
// moment and repeated. Who changes a network that others change too has its Lock.
//
// It does not decide what there should be (package network and its callers do), it does
// not enter namespaces, and it opens no guest's TAP.
package apply

import (
	"context"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/linux"
	"banger/internal/network"
)

// Result says what a user should know about a network that was applied.
type Result struct {
	Notes []Note `json:"notes,omitempty"`
}

// Note is something on the host that hinders the guests and that Apply leaves alone.
type Note = network.Note

// Apply makes the current network namespace equal to w. Without guests it removes
// everything of the instance and gives back what it switched on. It needs CAP_NET_ADMIN
// in the namespace.
//
// Only differences are changed, so a repeated call changes nothing, and a guest's egress
// is one element of a set. When Apply fails, it says why; what it did until then stays,
// and the next call continues from there.
func Apply(ctx context.Context, w network.Wanted) (Result, error) {
	if w.Mode == network.None {
		w.Guests = nil
	}
	if w.MTU == 0 {
		w.MTU = defaultMTU(w.Mode)
	}
	if err := check(w); err != nil {
		return Result{}, err
	}
	a := &applier{ctx: ctx, run: hostcmd.Host{}, Wanted: w}
	change := a.ensure
	if len(w.Guests) == 0 {
		change = a.remove
	}
	err := change()
	return Result{Notes: a.notes}, explain(err)
}

// applier is one call of Apply.
type applier struct {
	network.Wanted
	ctx   context.Context
	run   hostcmd.Runner
	notes []Note
}

// ensure makes everything. The firewall comes before the TAPs that it guards, and what
// is not wanted any more goes before its rules do.
func (a *applier) ensure() error {
	links, err := a.links()
	if err != nil {
		return err
	}
	if err := a.checkFree(links); err != nil {
		return err
	}
	found, err := a.findFirewall()
	if err != nil {
		return err
	}
	if err := a.sweep(links); err != nil {
		return err
	}
	if err := a.ensureFirewall(found); err != nil {
		return err
	}
	if err := a.ensureLinks(links); err != nil {
		return err
	}
	if err := a.ensureForwarding(); err != nil {
		return err
	}
	return a.ensureAccepted()
}

// remove removes everything. The tables go last but one: as long as they are there, the
// instance counts as one that needs forwarding.
func (a *applier) remove() error {
	links, err := a.links()
	if err != nil {
		return err
	}
	if err := a.sweep(links); err != nil {
		return err
	}
	if err := a.removeAccepted(); err != nil {
		return err
	}
	if err := a.removeFirewall(); err != nil {
		return err
	}
	return a.removeForwarding(links)
}

func defaultMTU(mode network.Mode) int {
	if mode == network.Usernet {
		return network.UplinkMTU
	}
	return 1500
}

// check refuses a plan that contradicts itself, before anything changes.
func check(w network.Wanted) error {
	if !instance.MatchString(string(w.Instance)) {
		return fmt.Errorf("%q is no instance of a network", w.Instance)
	}
	if len(w.Guests) == 0 {
		return nil
	}
	if !w.Subnet.Addr().Is4() || w.Subnet.Bits() != network.PrefixBits {
		return fmt.Errorf("%v is not an IPv4 subnet of %d bits", w.Subnet, network.PrefixBits)
	}
	if w.MTU < 576 || w.MTU > network.UplinkMTU {
		return fmt.Errorf("an MTU of %d is not between 576 and %d", w.MTU, network.UplinkMTU)
	}
	seen := map[any]bool{network.Gateway(w.Subnet): true}
	for _, g := range w.Guests {
		switch {
		case network.MAC(g.ID) == nil || !tapName.MatchString(network.Tap(g.ID)):
			return fmt.Errorf("%q is no VM's ID", g.ID)
		case !w.Subnet.Contains(g.Addr):
			return fmt.Errorf("the address %v of VM %s is not in %v", g.Addr, g.ID, w.Subnet)
		case g.Owner < 0:
			return fmt.Errorf("%d cannot own the TAP of VM %s", g.Owner, g.ID)
		case seen[g.Addr] || seen[g.ID]:
			return fmt.Errorf("VM %s or its address %v is there twice", g.ID, g.Addr)
		}
		seen[g.Addr], seen[g.ID] = true, true
	}
	return nil
}

// lockFile exists once per network namespace, and only the namespace's owner may open
// it. So it serves as a lock for which instances need no file in common, which nobody
// else can hold, and which ends with its process. Opening it flushes nothing.
const lockFile = "/proc/sys/net/ipv4/route/flush"

// Lock waits until nobody else who has the lock changes the current network namespace.
func Lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(lockFile, os.O_WRONLY, 0)
	if err != nil {
		return nil, explain(err)
	}
	if err := linux.WaitFlock(ctx, file); err != nil {
		file.Close()
		return nil, fmt.Errorf("wait for another change of the network: %w", err)
	}
	return func() { file.Close() }, nil
}

// Traffic is how many bytes a guest's card has moved since its TAP was made, as the
// guest sees them.
type Traffic = network.Traffic

// Counters returns the traffic of each guest of the instance that has a TAP in the
// current network namespace.
func Counters(i network.Instance) (map[banger.VMID]Traffic, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	found := map[banger.VMID]Traffic{}
	for _, link := range links {
		at := link.Attrs()
		if at.Alias != i.Alias() || !tapName.MatchString(at.Name) || at.Statistics == nil {
			continue
		}
		found[banger.VMID(at.Name[len(network.Tap("")):])] = Traffic{
			// The TAP sends what the guest receives.
			Received: at.Statistics.TxBytes, Sent: at.Statistics.RxBytes,
		}
	}
	return found, nil
}

// Left reports whether the current network namespace has anything of the instance: for a
// host on which no VM should need it. It changes nothing.
func Left(i network.Instance) (bool, error) {
	a := &applier{Wanted: network.Wanted{Instance: i}}
	links, err := a.links()
	if err != nil {
		return false, err
	}
	for _, link := range links {
		if a.ours(link) {
			return true, nil
		}
	}
	for _, t := range []*nftables.Table{{Family: nftables.TableFamilyINet, Name: i.Table()}, {Family: nftables.TableFamilyBridge, Name: i.Table()}, switched} {
		mark, err := marker(t)
		if noFirewall(err) {
			return false, nil // a kernel without nftables has no tables of ours
		}
		if err != nil || mark != "" {
			return mark != "", err
		}
	}
	return false, nil
}
