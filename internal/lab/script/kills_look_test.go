package script

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lookEnv makes the test binary print the network that it is in.
const lookEnv = "BANGER_TEST_LOOK"

// seen is what matters of a network.
type seen struct {
	Links  map[string]link
	Sets   map[string][]string // the elements of nftables sets in hexadecimal, by family, table and name
	Tables []string
}

// link is a link of a network.
type link struct {
	Master, Alias string
	Up, Carrier   bool // a TAP has a carrier while a process has it open
	MTU           int
}

func printNetwork() int {
	found, err := lookAround()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// lookAround returns the network of this process.
func lookAround() (found seen, err error) {
	found.Links, found.Sets = map[string]link{}, map[string][]string{}
	links, err := netlink.LinkList()
	if err != nil {
		return found, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		at := l.Attrs()
		found.Links[at.Name] = link{Master: names[at.MasterIndex], Alias: at.Alias, Up: at.RawFlags&unix.IFF_UP != 0, Carrier: at.RawFlags&unix.IFF_LOWER_UP != 0, MTU: at.MTU}
	}
	tables, err := (&nftables.Conn{}).ListTables()
	if err != nil {
		return found, err
	}
	for _, t := range tables {
		name := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet ", nftables.TableFamilyBridge: "bridge "}[t.Family] + t.Name
		found.Tables = append(found.Tables, name)
		sets, err := (&nftables.Conn{}).GetSets(t)
		if err != nil {
			return found, err
		}
		for _, s := range sets {
			elements, err := (&nftables.Conn{}).GetSetElements(s)
			if err != nil {
				return found, err
			}
			var all []string
			for _, e := range elements {
				all = append(all, hex.EncodeToString(e.Key))
			}
			slices.Sort(all)
			found.Sets[name+" "+s.Name] = all
		}
	}
	return found, nil
}

// host returns what of the host's network VMs may not change. A plain user is not told of
// tables.
func (k *kills) host() string {
	var text []string
	links, errLinks := netlink.LinkList()
	addrs, errAddrs := netlink.AddrList(nil, netlink.FAMILY_ALL)
	routes, errRoutes := netlink.RouteList(nil, netlink.FAMILY_ALL)
	forwards, errForwards := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err := errors.Join(errLinks, errAddrs, errRoutes, errForwards); err != nil {
		k.Fatal(err)
	}
	for _, l := range links {
		text = append(text, fmt.Sprintln("link", l.Attrs().Name, l.Type(), l.Attrs().Alias))
	}
	for _, a := range addrs {
		text = append(text, fmt.Sprintln("address", a))
	}
	for _, r := range routes {
		text = append(text, fmt.Sprintln("route", r))
	}
	if tables, err := (&nftables.Conn{}).ListTables(); err == nil {
		for _, t := range tables {
			text = append(text, fmt.Sprintln("table", t.Family, t.Name))
		}
	} else if os.Geteuid() == 0 {
		k.Fatal(err)
	}
	return strings.Join(text, "") + "forwards " + string(forwards)
}
