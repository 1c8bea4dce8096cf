package instance

import (
	"context"
	"errors"
	"fmt"
	"os"

	"banger/internal/network"
	"banger/internal/network/apply"
	"banger/internal/network/helper"
	"banger/internal/network/namespace"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Adopt takes over VMs that an earlier daemon has connected, each with the pid of its
// VMM. It is called once, before anything else, also without VMs: what earlier daemons
// have left is removed.
func (n *Network) Adopt(ctx context.Context, running map[int]network.Guest) error {
	defer n.once.Do(func() { close(n.adopted) })
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := helper.Sweep(n.Dirs.Net()); err != nil {
		n.Log.Warn("remove parts of the network's state", "err", err)
	}
	if len(running) > 0 {
		n.proven()
	}
	if n.Mode() == network.None {
		return nil
	}
	for pid, g := range running {
		n.adopt(pid, g)
	}
	p, err := helper.Find(n.Dirs.Net())
	switch {
	case err == nil && n.outdated(p):
		if err := helper.End(p); err != nil {
			return err
		}
	case err == nil:
		n.watch(p)
	case !errors.Is(err, vmm.ErrGone): // the next change finds it, or makes another
		n.Log.Warn("find the network's helper", "err", err)
	case len(n.guests) == 0 && !n.leftOver(ctx):
		return helper.Forget(n.Dirs.Net())
	}
	_, err = n.settle(ctx)
	return err
}

// proven makes the mode the one that VMs run in, if nothing is known against it but that
// trying it has failed: without it, none of them could be changed any more.
func (n *Network) proven() {
	if n.Why() == nil || !n.Subnet().IsValid() {
		return
	}
	n.look.Lock()
	defer n.look.Unlock()
	n.Log.Info("VMs have a network all the same")
	n.mode, n.why = possible(n.Root), nil
}

// possible returns the mode of hosts that allow one.
func possible(root bool) network.Mode {
	if root {
		return network.Bridge
	}
	return network.Usernet
}

// outdated reports whether the helper is one for another subnet, because its daemon was
// killed while it renumbered, or of another program, because of an upgrade.
func (n *Network) outdated(p *process.Process) bool {
	told, err := helper.Told(n.Dirs.Net())
	return err == nil && told.Subnet != n.Subnet() || !helper.Current(p)
}

// adopt takes over a VM that runs. One that is not in the network of the others keeps
// what it has: nothing that is applied there would reach it.
func (n *Network) adopt(pid int, g network.Guest) {
	if err := n.join(pid); err != nil {
		n.Log.Warn("find the network of a VM", "id", g.ID, "err", err)
		return
	}
	n.guests[g.ID] = guest{Guest: g, pid: pid}
}

// join returns an error unless a VMM is in the network that the daemon changes. That of a
// plain user is the first one's.
func (n *Network) join(pid int) error {
	if n.Mode() == network.Bridge {
		own, err1 := os.Stat("/proc/self/ns/net")
		its, err2 := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
		return errors.Join(err1, err2, sameNetwork(own, its))
	}
	ns, err := namespace.Of(pid)
	if err != nil {
		return err
	}
	if n.ns == nil {
		n.ns = ns
		return nil
	}
	defer ns.Close()
	first, err1 := n.ns.Net.Stat()
	its, err2 := ns.Net.Stat()
	return errors.Join(err1, err2, sameNetwork(first, its))
}

func sameNetwork(a, b os.FileInfo) error {
	if a != nil && b != nil && !os.SameFile(a, b) {
		return errors.New("it is in a network of its own")
	}
	return nil
}

// leftOver reports whether an earlier daemon has left something on the host. What that one
// has begun may only just be ending.
func (n *Network) leftOver(ctx context.Context) (left bool) {
	if n.Mode() != network.Bridge {
		return false
	}
	unlock, err := apply.Lock(ctx)
	if err == nil {
		defer unlock()
		left, err = apply.Left(n.instance)
	}
	if err != nil {
		n.Log.Warn("look for what is left of the network", "err", err)
	}
	return left
}
