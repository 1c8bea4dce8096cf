package instance

import (
	"context"
	"fmt"
	"net/netip"

	"banger/internal/config"
	"banger/internal/linux"
	"banger/internal/network"
	"banger/internal/network/helper"
)

// conflictIn returns a note if the host has got a route that overlaps a subnet since that
// was chosen, as a VPN brings.
func conflictIn(subnet netip.Prefix, bridge string) (*network.Note, error) {
	taken, err := takenByHost(bridge)
	if err != nil {
		return nil, fmt.Errorf("read the host's routes: %w", err)
	}
	t := conflict(subnet, taken)
	if !t.IsValid() {
		return nil, nil
	}
	return &network.Note{Text: fmt.Sprintf("this host has a route to %v, which overlaps the VMs' subnet %v: VMs cannot reach what is there", t, subnet), Fix: "banger network renumber"}, nil
}

// Conflict returns what on the host is in the way of the subnet, or nil.
func (n *Network) Conflict() *network.Note { return n.conflict.Load() }

// Watch calls changed whenever Conflict has another result, until ctx ends.
func (n *Network) Watch(ctx context.Context, changed func()) {
	ring := make(chan struct{}, 1)
	stop, err := linux.WatchRoutes(ring)
	if err != nil {
		n.Log.Warn("notice routes that the host gets", "err", err)
		return
	}
	defer stop()
	for {
		if n.lookForConflict() {
			changed()
		}
		select {
		case <-ring:
		case <-ctx.Done():
			return
		}
	}
}

// lookForConflict looks at the host's routes, and reports whether Conflict has changed.
func (n *Network) lookForConflict() bool {
	n.looking.Lock()
	defer n.looking.Unlock()
	now, err := conflictIn(n.Subnet(), n.instance.Bridge())
	if err != nil {
		n.Log.Warn("look for conflicts of the network", "err", err)
		return false
	}
	was := n.conflict.Swap(now)
	if now == nil || was != nil && *was == *now {
		return now == nil && was != nil
	}
	n.Log.Warn(now.Text, "fix", now.Fix)
	return true
}

// conflictOf returns what is in the way of the VMs that run, without their daemon: the
// helper was told their subnet.
func conflictOf(dir config.NetDir, i network.Instance) (*network.Note, error) {
	told, err := helper.Told(dir)
	if err != nil {
		return nil, nil // none runs with a network
	}
	return conflictIn(told.Subnet, i.Bridge())
}
