package apply

import (
	"errors"
	"net/netip"
	"os"

	"github.com/google/nftables"

	"banger/internal/network"
)

// Check returns an Unready error if this process cannot change the network, or if the
// kernel lacks a part of nftables that guests need. It changes nothing.
func Check() error {
	return explain(probeFirewall(tables(network.Wanted{Instance: "00000000", Mode: network.Bridge, Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), network.PrefixBits)})))
}

// probeFirewall returns what the kernel lacks to have these tables.
func probeFirewall(tables []table) error {
	for _, t := range tables {
		probe := &nftables.Table{Family: t.Family, Name: t.Name + "_probe"}
		conn := &nftables.Conn{}
		conn.AddTable(probe)
		for _, c := range t.chains {
			chain := *c
			chain.Table = probe
			conn.AddChain(&chain)
		}
		conn.DelTable(probe) // in the same transaction: nobody sees it
		if err := conn.Flush(); errors.Is(err, os.ErrPermission) {
			return err
		} else if err != nil {
			return lacks(t.Family, err)
		}
	}
	return nil
}
