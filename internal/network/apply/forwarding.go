package apply

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network"
)

const ipForward = "/proc/sys/net/ipv4/ip_forward"

// switched exists while forwarding is on because an instance switched it on. It belongs
// to all instances, and outlives any of them.
var switched = &nftables.Table{Family: nftables.TableFamilyINet, Name: "banger_forwarding"}

func forwards() (bool, error) {
	text, err := os.ReadFile(ipForward)
	if err != nil {
		return false, fmt.Errorf("ask whether the host forwards: %w", err)
	}
	return !bytes.Equal(bytes.TrimSpace(text), []byte("0")), nil
}

func setForwards(value string) error {
	if err := os.WriteFile(ipForward, []byte(value), 0); err != nil {
		return fmt.Errorf("write %s to %s: %w", value, ipForward, err)
	}
	return nil
}

// conf holds the settings of each link, of all links and of new ones.
const conf = "/proc/sys/net/ipv4/conf"

// changesAlong returns the settings that are not the same after forwarding was switched
// on and off again, each as "FILE was VALUE": the kernel then has each link forward or
// not, and accept redirects as a host that nobody has hardened.
func changesAlong() (was []string, err error) {
	files, err := filepath.Glob(filepath.Join(conf, "*", "forwarding"))
	if err != nil {
		return nil, err
	}
	for _, path := range append(files, filepath.Join(conf, "all", "accept_redirects")) {
		after := "0"
		if filepath.Base(path) == "accept_redirects" {
			after = "1"
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // the link has gone
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the host's settings: %w", err)
		}
		if value := string(bytes.TrimSpace(text)); value != after {
			was = append(was, strings.TrimPrefix(path, conf+"/")+wasValue+value)
		}
	}
	return was, nil
}

const wasValue = " was "

// restore sets what changesAlong has returned.
func restore(was []string) error {
	for _, line := range was {
		file, value, _ := strings.Cut(line, wasValue)
		if err := os.WriteFile(filepath.Join(conf, file), []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set %s to %s again: %w", file, value, err)
		}
	}
	return nil
}

// ensureForwarding lets the host forward. Before it switches that on it says so in the
// kernel, so that a killed call is not forgotten. What an earlier call has said stays: it
// knows how the host was.
func (a *applier) ensureForwarding() error {
	on, err := forwards()
	if err != nil || on {
		return err
	}
	said, err := marks(switched)
	if err != nil {
		return err
	}
	if len(said) == 0 {
		was, err := changesAlong()
		if err != nil {
			return err
		}
		conn := &nftables.Conn{}
		conn.AddTable(switched)
		conn.DelTable(switched)
		conn.AddTable(switched)
		addMarker(conn, switched, append([]string{"net.ipv4.ip_forward was 0"}, was...)...)
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("write down that the host did not forward: %w", err)
		}
	}
	return setForwards("1")
}

// removeForwarding switches forwarding off if we switched it on, no instance needs it,
// and nobody else who came later relies on it.
func (a *applier) removeForwarding(links map[string]netlink.Link) error {
	said, err := marks(switched)
	if err != nil && !noFirewall(err) {
		return err
	}
	if len(said) == 0 {
		return nil
	}
	needed, err := instancesLeft()
	if err != nil || needed {
		return err
	}
	others, err := othersForward(links)
	if err != nil {
		return err
	}
	if !others {
		if err := errors.Join(setForwards("0"), restore(said[1:])); err != nil {
			return err
		}
	}
	conn := &nftables.Conn{}
	conn.DelTable(switched)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete the table %s: %w", switched.Name, err)
	}
	return nil
}

var instanceTable = regexp.MustCompile(`^` + network.Instance("").Table() + `[0-9a-f]{8}$`)

// instancesLeft reports whether an instance has its tables here.
func instancesLeft() (bool, error) {
	tables, err := (&nftables.Conn{}).ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if instanceTable.MatchString(t.Name) {
			return true, nil
		}
	}
	return false, nil
}

// othersForward reports whether somebody else seems to rely on the host's forwarding: a
// bridge that is up (Docker, Podman, libvirt and LXD each have one) or rules that change
// the source of packets. It would rather leave forwarding on than break them.
func othersForward(links map[string]netlink.Link) (bool, error) {
	for _, link := range links {
		at := link.Attrs()
		if link.Type() == "bridge" && at.RawFlags&unix.IFF_UP != 0 && !strings.HasPrefix(at.Alias, network.Instance("").Alias()) {
			return true, nil
		}
	}
	chains, err := (&nftables.Conn{}).ListChainsOfTableFamily(nftables.TableFamilyUnspecified)
	if err != nil {
		return false, fmt.Errorf("list chains: %w", err)
	}
	for _, c := range chains {
		if c.Type != nftables.ChainTypeNAT || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookPostrouting || instanceTable.MatchString(c.Table.Name) {
			continue
		}
		rules, err := (&nftables.Conn{}).GetRules(c.Table, c)
		if err != nil || len(rules) > 0 {
			return true, nil
		}
	}
	return legacyTable("nat"), nil
}
