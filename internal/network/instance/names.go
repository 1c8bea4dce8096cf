package instance

import (
	"context"
	"net"

	"banger/internal/network"
	"banger/internal/network/dns"
)

// tellHost has programs of the host find VMs by their names, from the first VM on. A host
// that refuses is not asked again for the same bridge: its VMs run without that. The
// caller holds mu.
func (n *Network) tellHost(ctx context.Context) {
	if n.Mode() != network.Bridge || n.Host.Bus == "" {
		return
	}
	bridge, err := net.InterfaceByName(n.instance.Bridge())
	if err == nil && bridge.Index == n.told {
		return
	}
	if err == nil {
		n.told = bridge.Index
		err = n.Host.Ask(ctx, bridge.Index, network.Gateway(n.Subnet()), dns.Domain)
	}
	if err != nil {
		n.Log.Warn("tell the host where names of VMs are", "err", err)
	}
}

// untellHost undoes tellHost. The caller holds mu.
func (n *Network) untellHost(ctx context.Context) {
	if n.told == 0 {
		return
	}
	if err := n.Host.Forget(context.WithoutCancel(ctx), n.told); err != nil {
		n.Log.Warn("tell the host that there are no names of VMs", "err", err)
	}
	n.told = 0
}
