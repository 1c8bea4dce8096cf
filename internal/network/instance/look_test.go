package instance

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// look prints the links, addresses and sets of the namespace that it runs in. TAPs with their
// numbers: another of the same name would be another.
func look() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	var all []string
	for _, link := range links {
		at := link.Attrs()
		if strings.HasPrefix(at.Name, "bgu") {
			continue // a new helper may have a new one
		}
		addrs, err := netlink.AddrList(link, unix.AF_INET)
		if err != nil {
			return err
		}
		all = append(all, fmt.Sprintln(at.Index, at.Name, at.HardwareAddr, at.MasterIndex, at.Flags&net.FlagUp, at.RawFlags&unix.IFF_LOWER_UP, at.Alias, addrs))
	}
	tables, err := (&nftables.Conn{}).ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		sets, err := (&nftables.Conn{}).GetSets(t)
		if err != nil {
			return err
		}
		for _, s := range sets {
			elements, err := (&nftables.Conn{}).GetSetElements(s)
			if err != nil {
				return err
			}
			var keys []string
			for _, e := range elements {
				keys = append(keys, fmt.Sprintf("%x", e.Key))
			}
			slices.Sort(keys)
			all = append(all, fmt.Sprintln(t.Family, t.Name, s.Name, keys))
		}
	}
	fmt.Print(strings.Join(all, ""))
	return nil
}
