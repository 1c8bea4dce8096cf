// Package network is the plan of an instance's network: which links, addresses and
// rules there are, and what they are called. Everything follows from the instance and
// the VMs' IDs, so nothing of it is stored twice. It changes nothing on the host;
// package apply does.
package network

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"banger"
)

// Instance tells one daemon's network from another's on the same host: 8 lower-case
// hexadecimal digits. It follows from the state directory.
type Instance string

// InstanceOf returns the instance of a state directory.
func InstanceOf(stateDir string) Instance {
	sum := sha256.Sum256([]byte(stateDir))
	return Instance(hex.EncodeToString(sum[:4]))
}

// Bridge returns the name of the bridge that all guests are ports of.
func (i Instance) Bridge() string { return "bgr" + string(i) }

// IsBridge reports whether a link has the name of some instance's bridge.
func IsBridge(link string) bool {
	raw, err := hex.DecodeString(strings.TrimPrefix(link, "bgr"))
	return strings.HasPrefix(link, "bgr") && err == nil && len(raw) == 4
}

// Uplink returns the name of the TAP between the namespace and the user-mode stack.
func (i Instance) Uplink() string { return "bgu" + string(i) }

// Table returns the name of the nftables tables, one in the family inet and one in
// the family bridge.
func (i Instance) Table() string { return "banger_" + string(i) }

// Alias returns the alias of every link of the instance, by which a sweep finds them.
func (i Instance) Alias() string { return "banger:" + string(i) }

// BridgeMAC returns the bridge's own address, which does not change with its ports.
func (i Instance) BridgeMAC() net.HardwareAddr {
	raw, _ := hex.DecodeString(string(i))
	return append(net.HardwareAddr{0x02, 0xb9}, raw...)
}

// Tap returns the name of a VM's TAP.
func Tap(id banger.VMID) string { return "bg" + string(id) }

// MAC returns the address of a VM's network card. It is local and unicast.
func MAC(id banger.VMID) net.HardwareAddr {
	raw, err := hex.DecodeString(string(id))
	if err != nil || len(raw) != 6 {
		return nil // an ID that no daemon has made
	}
	raw[0] = raw[0]&^0x01 | 0x02
	return raw
}

// Mode is how guests reach the network.
type Mode string

// The modes.
const (
	Bridge  Mode = "bridge"  // a bridge of the host, with NAT by its kernel: needs root
	Usernet Mode = "usernet" // a bridge in a namespace of the user's, with a TCP/IP stack of the daemon's
	None    Mode = "none"    // no network card
)

// PrefixBits is the size of an instance's subnet: 4,093 VMs.
const PrefixBits = 20

// Addresses of a subnet that no guest gets: the network's own, the gateway's, and the
// broadcast address.
const (
	FirstSlot = 2
	LastSlot  = 1<<(32-PrefixBits) - 2
)

// Gateway returns the bridge's address, which is the guests' router and resolver.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// Addr returns the address of the guest with a slot of the subnet.
func Addr(subnet netip.Prefix, slot int) (netip.Addr, error) {
	if !subnet.Addr().Is4() {
		return netip.Addr{}, fmt.Errorf("%v is not a subnet", subnet)
	}
	if slot < FirstSlot || slot > LastSlot {
		return netip.Addr{}, fmt.Errorf("slot %d is not between %d and %d", slot, FirstSlot, LastSlot)
	}
	a := subnet.Masked().Addr().As4()
	a[2] |= byte(slot >> 8)
	a[3] |= byte(slot)
	return netip.AddrFrom4(a), nil
}

// Guest is a running VM as the network sees it.
type Guest struct {
	ID       banger.VMID `json:"id"`
	Addr     netip.Addr  `json:"addr"`
	Owner    int         `json:"owner"`              // uid that may open the TAP, as apply's namespace numbers it
	Egress   bool        `json:"egress,omitempty"`   // may reach what is outside the bridge
	Isolated bool        `json:"isolated,omitempty"` // may not reach other guests
}

// Wanted is the whole network of an instance: apply makes the kernel equal to it.
// Without guests nothing of the instance remains.
type Wanted struct {
	Instance Instance     `json:"instance"`
	Mode     Mode         `json:"mode"`
	Subnet   netip.Prefix `json:"subnet"`
	MTU      int          `json:"mtu"`
	Guests   []Guest      `json:"guests"`
}

// The link between the namespace of usernet and the user-mode stack. It exists only
// there, so it is the same for every instance.
var (
	UplinkSubnet  = netip.MustParsePrefix("198.51.100.0/30")
	UplinkAddr    = netip.MustParseAddr("198.51.100.2") // the namespace's end
	UplinkGateway = netip.MustParseAddr("198.51.100.1") // the stack's end, which serves DNS
)

// UplinkMTU is the uplink's largest packet: few, large packets are three times as fast
// as usual ones.
const UplinkMTU = 65520

// Note is something on the host that hinders guests, and that banger leaves alone.
type Note struct {
	Text string `json:"text"`
	Fix  string `json:"fix"` // one command to paste
}

// Traffic is what a guest has transferred since its TAP was made, in bytes.
type Traffic struct {
	Received uint64 `json:"received"`
	Sent     uint64 `json:"sent"`
}
