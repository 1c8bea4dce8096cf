package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// inNamespace runs the calling test again in user and network namespaces of its own,
// and reports whether this is that run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "BANGER_TEST_INSIDE"
	if os.Getenv(inside) == t.Name() {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Skipf("needs user and network namespaces: %v", err)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skip(string(out))
	}
	if err != nil {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
	return false
}

const testMAC = "02:00:00:00:00:01"

// addCard makes a link with the test's MAC, and another one as its peer.
func addCard(t *testing.T) {
	t.Helper()
	k, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	mac, _ := net.ParseMAC(testMAC)
	const infoPeer = 1 // VETH_INFO_PEER
	peer := attribute(infoPeer, append(linkBody(0, 0), attribute(unix.IFLA_IFNAME, []byte("peer\x00"))...))
	info := append(attribute(unix.IFLA_INFO_KIND, []byte("veth")), attribute(unix.IFLA_INFO_DATA, peer)...)
	err = k.ask(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, linkBody(0, 0),
		attribute(unix.IFLA_IFNAME, []byte("eth0\x00")), attribute(unix.IFLA_ADDRESS, mac), attribute(unix.IFLA_LINKINFO, info))
	if err != nil {
		t.Skipf("needs veth links: %v", err)
	}
	other, err := net.InterfaceByName("peer")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.raise(other.Index); err != nil {
		t.Fatal(err)
	}
}

func wanted(addr string) wire.Network {
	p := netip.MustParsePrefix(addr)
	gateway := p.Masked().Addr().Next()
	return wire.Network{MAC: testMAC, Addr: p, Gateway: gateway, Resolver: gateway, Domain: "vm", MTU: 1400}
}

// shown describes the links of the namespace as a person would see them.
func shown(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 {
			continue
		}
		fmt.Fprintf(&b, "%s %d", l.Name, l.MTU)
		addrs, err := l.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				fmt.Fprintf(&b, " %s", p)
			}
		}
		routes, err := defaultRoutes(l.Index)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			fmt.Fprintf(&b, " via %s", r.gateway)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func expect(t *testing.T, what, want string) {
	t.Helper()
	if got := shown(t); got != want {
		t.Errorf("%s:\n%swant\n%s", what, got, want)
	}
}

func TestCardFollowsTheConfiguration(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := Guest{Root: t.TempDir(), Changed: func(string) bool { return true }}
	addCard(t)
	if err := RaiseLoopback(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Apply(wanted("10.201.16.2/20")); err != nil {
			t.Fatal(err)
		}
		expect(t, "after the boot", "lo 65536 127.0.0.1/8\npeer 1500\neth0 1400 10.201.16.2/20 via 10.201.16.1\n")
	}
	if ra, err := os.ReadFile("/proc/sys/net/ipv6/conf/eth0/accept_ra"); err == nil && string(ra) != "0\n" {
		t.Errorf("accept_ra is %q", ra)
	}

	// What a person adds stays: an address, and the address of another link.
	k, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	eth0, _ := net.InterfaceByName("eth0")
	peer, _ := net.InterfaceByName("peer")
	for index, addr := range map[int]string{eth0.Index: "192.0.2.7/24", peer.Index: "10.201.16.2/32"} {
		if err := k.addAddress(index, netip.MustParsePrefix(addr)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Apply(wanted("10.201.16.9/20")); err != nil {
		t.Fatal(err)
	}
	expect(t, "another address", "lo 65536 127.0.0.1/8\npeer 1500 10.201.16.2/32\neth0 1400 192.0.2.7/24 10.201.16.9/20 via 10.201.16.1\n")
	elsewhere := wanted("10.99.0.5/20")
	elsewhere.MTU = 0
	if err := g.Apply(elsewhere); err != nil {
		t.Fatal(err)
	}
	expect(t, "another subnet", "lo 65536 127.0.0.1/8\npeer 1500 10.201.16.2/32\neth0 1400 192.0.2.7/24 10.99.0.5/20 via 10.99.0.1\n")
	if r := g.read(); len(r.Ours) != 1 || r.Ours[0] != elsewhere || r.Why != "" {
		t.Errorf("remembered %+v", r)
	}

	// A default route of a person's own wins.
	if err := k.deleteRoute(eth0.Index, route{gateway: elsewhere.Gateway}); err != nil {
		t.Fatal(err)
	}
	if err := k.addRoute(eth0.Index, route{gateway: netip.MustParseAddr("192.0.2.1")}); err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(elsewhere); err != nil {
		t.Fatal(err)
	}
	expect(t, "a person's route", "lo 65536 127.0.0.1/8\npeer 1500 10.201.16.2/32\neth0 1400 192.0.2.7/24 10.99.0.5/20 via 192.0.2.1\n")
}

func TestChangeThatFailedIsKnownToTheNext(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := Guest{Root: t.TempDir(), Changed: func(string) bool { return true }}
	addCard(t)
	if err := g.Apply(wanted("10.201.16.2/20")); err != nil {
		t.Fatal(err)
	}
	// The resolver cannot be written: its directory is a file.
	if err := os.RemoveAll(g.Root + "/etc"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.Root+"/etc", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(wanted("10.50.0.2/20")); err == nil || g.Why() == "" {
		t.Errorf("got %v, remembered %q", err, g.Why())
	}
	if err := os.Remove(g.Root + "/etc"); err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(wanted("10.60.0.2/20")); err != nil || g.Why() != "" {
		t.Errorf("got %v, remembered %q", err, g.Why())
	}
	expect(t, "after a failure", "peer 1500\neth0 1400 10.60.0.2/20 via 10.60.0.1\n")
}

func TestCardThatComesLate(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if _, err := waitForCard(testMAC, time.Millisecond); err == nil || !strings.Contains(err.Error(), testMAC) {
		t.Errorf("without a card: %v", err)
	}
	found := make(chan error, 1)
	go func() { _, err := waitForCard(testMAC, time.Minute); found <- err }()
	addCard(t)
	if err := <-found; err != nil {
		t.Error(err)
	}
}

func TestWrongNetworkChangesNothing(t *testing.T) {
	g := Guest{Root: t.TempDir(), Changed: func(string) bool { return true }}
	bad := wanted("10.201.16.2/20")
	bad.Domain = "vm\nnameserver 192.0.2.66"
	if err := g.Apply(bad); err == nil || g.Why() == "" {
		t.Errorf("got %v, remembered %q", err, g.Why())
	}
	if _, err := os.Lstat(g.Root + "/etc"); err == nil {
		t.Error("files were written")
	}
}

func TestManyFailuresAreNotRememberedForEver(t *testing.T) {
	var all []wire.Network
	for i := range 2 * maxOurs {
		all = last(append(all, wire.Network{MTU: i}), maxOurs)
	}
	if len(all) != maxOurs || !slices.ContainsFunc(all, func(n wire.Network) bool { return n.MTU == 2*maxOurs-1 }) {
		t.Errorf("%d are remembered", len(all))
	}
}
