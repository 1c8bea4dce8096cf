package apply

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
)

var (
	instance = regexp.MustCompile(`^[0-9a-f]{8}$`)
	tapName  = regexp.MustCompile(`^` + network.Tap("") + `[0-9a-f]{12}$`)
)

// links returns the namespace's links by name.
func (a *applier) links() (map[string]netlink.Link, error) {
	list, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	links := make(map[string]netlink.Link, len(list))
	for _, link := range list {
		links[link.Attrs().Name] = link
	}
	return links, nil
}

// dump repeats a listing that something else changed meanwhile: the kernel says that it
// may be incomplete.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for {
		found, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
	}
}

// ours reports whether the instance made a link with one of its names. A bridge without
// an alias is one whose making was cut short: its address tells.
func (a *applier) ours(link netlink.Link) bool {
	at := link.Attrs()
	if at.Alias == a.Instance.Alias() {
		return true
	}
	return at.Alias == "" && at.Name == a.Instance.Bridge() && link.Type() == "bridge" &&
		at.HardwareAddr.String() == a.Instance.BridgeMAC().String()
}

// sweep deletes the instance's links that nobody wants. It takes them out of links too.
func (a *applier) sweep(links map[string]netlink.Link) error {
	keep := map[string]bool{a.Instance.Uplink(): true} // the end of its process is its end
	if len(a.Guests) > 0 {
		keep[a.Instance.Bridge()] = true
	}
	for _, g := range a.Guests {
		keep[network.Tap(g.ID)] = true
	}
	for name, link := range links {
		if keep[name] || !a.ours(link) {
			continue
		}
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete link %s: %w", name, err)
		}
		delete(links, name)
	}
	return nil
}

// ensureLinks makes the bridge, the TAPs, and what the uplink needs.
func (a *applier) ensureLinks(links map[string]netlink.Link) error {
	bridge, err := a.ensureBridge(links[a.Instance.Bridge()])
	if err != nil {
		return err
	}
	for _, g := range a.Guests {
		if err := a.ensureTap(links[network.Tap(g.ID)], g, bridge.Attrs().Index); err != nil {
			return err
		}
	}
	if a.Mode != network.Usernet {
		return nil
	}
	if err := up(links["lo"]); err != nil {
		return err
	}
	if uplink := links[a.Instance.Uplink()]; uplink != nil && a.ours(uplink) {
		err := configureUplink(uplink, a.Instance)
		if gone := (netlink.LinkNotFoundError{}); err != nil && errors.As(lookFor(uplink), &gone) {
			return nil // its process has ended meanwhile, and the next one brings another
		}
		return err
	}
	return nil
}

// lookFor returns an error unless a link is still there.
func lookFor(link netlink.Link) error {
	_, err := netlink.LinkByIndex(link.Attrs().Index)
	return err
}

// free fails when somebody else's link has the name of one of ours. It is theirs: it is
// neither used nor deleted.
func (a *applier) free(link netlink.Link) error {
	if link == nil || a.ours(link) {
		return nil
	}
	name := link.Attrs().Name
	return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("a network link %s exists that banger did not make", name),
		Fix: fmt.Sprintf("look at it with `ip -details link show %s`, and if nothing needs it: sudo ip link delete %s", name, name)}
}

// checkFree fails when one of the names that are needed is taken.
func (a *applier) checkFree(links map[string]netlink.Link) error {
	names := []string{a.Instance.Bridge(), a.Instance.Uplink()}
	for _, g := range a.Guests {
		names = append(names, network.Tap(g.ID))
	}
	for _, name := range names {
		if err := a.free(links[name]); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) ensureBridge(link netlink.Link) (netlink.Link, error) {
	name := a.Instance.Bridge()
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, a.MTU, a.Instance.BridgeMAC()
		// Without snooping a guest cannot make itself the one that multicast goes to.
		err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: new(bool)})
		if err != nil {
			return nil, fmt.Errorf("create bridge %s: %w", name, err)
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("find bridge %s: %w", name, err)
		}
	}
	if at := link.Attrs(); at.HardwareAddr.String() != a.Instance.BridgeMAC().String() {
		if err := netlink.LinkSetHardwareAddr(link, a.Instance.BridgeMAC()); err != nil {
			return nil, fmt.Errorf("set the address of %s: %w", name, err)
		}
	}
	if link.Attrs().RawFlags&unix.IFF_UP == 0 {
		if err := learnNothingFromBridges(link); err != nil {
			return nil, err
		}
	}
	if err := configure(link, a.Instance, a.MTU); err != nil {
		return nil, err
	}
	if err := ensureAddr(link, netip.PrefixFrom(network.Gateway(a.Subnet), a.Subnet.Bits())); err != nil {
		return nil, err
	}
	return link, up(link)
}

// learnNothingFromBridges keeps a bridge from learning addresses from frames that are
// meant for bridges themselves. Those pass no rule, so a guest could take another's
// address with one. The library does not know the option.
func learnNothingFromBridges(link netlink.Link) error {
	const noLinkLocalLearn = 1 << 0 // BR_BOOLOPT_NO_LL_LEARN
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(link.Type()))
	option := binary.NativeEndian.AppendUint32(nil, noLinkLocalLearn)   // struct br_boolopt_multi: the values,
	option = binary.NativeEndian.AppendUint32(option, noLinkLocalLearn) // and which of them count
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(unix.IFLA_BR_MULTI_BOOLOPT, option)
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("keep bridge %s from learning: %w", link.Attrs().Name, err)
	}
	return nil
}

func (a *applier) ensureTap(link netlink.Link, g network.Guest, bridge int) error {
	name := network.Tap(g.ID)
	if tap, ok := link.(*netlink.Tuntap); ok && int(tap.Owner) != g.Owner && tap.RawFlags&unix.IFF_LOWER_UP == 0 {
		// Nobody has it open, so nobody misses it.
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("delete TAP %s: %w", name, err)
		}
		link = nil
	}
	if link == nil {
		return a.createTap(g, bridge)
	}
	return a.configureTap(link, bridge)
}

// createTap makes a TAP that stays. It stays only once it is complete: until then it
// ends with its descriptor, so that a killed call leaves no half of it.
func (a *applier) createTap(g network.Guest, bridge int) error {
	name := network.Tap(g.ID)
	file, err := openTap(name)
	if err != nil {
		return err
	}
	defer file.Close()
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find TAP %s: %w", name, err)
	}
	if err := ioctl(file, unix.TUNSETOWNER, uintptr(g.Owner)); err != nil {
		return fmt.Errorf("give TAP %s to user %d: %w", name, g.Owner, err)
	}
	if err := a.configureTap(link, bridge); err != nil {
		return err
	}
	if err := ioctl(file, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep TAP %s: %w", name, err)
	}
	return nil
}

func (a *applier) configureTap(link netlink.Link, bridge int) error {
	if err := configure(link, a.Instance, a.MTU); err != nil {
		return err
	}
	if at := link.Attrs(); at.MasterIndex != bridge {
		if err := netlink.LinkSetMasterByIndex(link, bridge); err != nil {
			return fmt.Errorf("make %s a port of the bridge: %w", at.Name, err)
		}
	}
	return up(link)
}

// configure sets what all our links have in common.
func configure(link netlink.Link, i network.Instance, mtu int) error {
	at := link.Attrs()
	if at.Alias != i.Alias() {
		if err := netlink.LinkSetAlias(link, i.Alias()); err != nil {
			return fmt.Errorf("mark link %s: %w", at.Name, err)
		}
	}
	if at.MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", at.Name, mtu, err)
		}
	}
	if at.RawFlags&unix.IFF_UP == 0 || at.MTU != mtu { // IPv6 forgets below an MTU of 1280
		return withoutIPv6(at.Name)
	}
	return nil
}

// withoutIPv6 keeps the host's IPv6 off a link: guests speak it among themselves, and
// find no host there, which listens to no router of theirs either.
func withoutIPv6(name string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"), []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
		return fmt.Errorf("switch IPv6 off on %s: %w", name, err)
	}
	return nil
}

func up(link netlink.Link) error {
	if link == nil || link.Attrs().RawFlags&unix.IFF_UP != 0 {
		return nil
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

// ensureAddr makes addr the only IPv4 address of a link.
func ensureAddr(link netlink.Link, addr netip.Prefix) error {
	name := link.Attrs().Name
	found, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", name, err)
	}
	there := false
	for _, old := range found {
		if old.IPNet.String() == addr.String() {
			there = true
			continue
		}
		if err := netlink.AddrDel(link, &old); err != nil {
			return fmt.Errorf("remove the address %v from %s: %w", old.IPNet, name, err)
		}
	}
	if there {
		return nil
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
		return fmt.Errorf("add the address %v to %s: %w", addr, name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
