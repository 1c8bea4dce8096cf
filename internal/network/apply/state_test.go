package apply

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
)

// withoutCapabilities runs f in a thread that may do nothing special.
func withoutCapabilities(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		nothing := [2]unix.CapUserData{}
		err := unix.Capset(&header, &nothing[0])
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// snapshot is the namespace as text: links, addresses, routes, rules and sysctls, but
// nothing that differs between two equal ones.
func snapshot(t *testing.T) string {
	t.Helper()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	links, err := dump(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		at := l.Attrs()
		add("link %s %s mtu %d alias %q master %q up %v", at.Name, l.Type(), at.MTU, at.Alias, names[at.MasterIndex], at.RawFlags&unix.IFF_UP != 0)
		switch l := l.(type) {
		case *netlink.Tuntap:
			add("link %s owner %d persists %v", at.Name, l.Owner, !l.NonPersist)
		case *netlink.Bridge:
			add("link %s address %v snooping %v", at.Name, at.HardwareAddr, *l.MulticastSnooping)
		}
		add("link %s without IPv6 %s", at.Name, text("/proc/sys/net/ipv6/conf", at.Name, "disable_ipv6"))
		addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			add("link %s address %v", at.Name, a.IPNet)
		}
	}
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		add("route %v via %v by %s", r.Dst, r.Gw, names[r.LinkIndex])
	}
	add("ip_forward %s", text(ipForward))
	add("redirects %s", text(conf, "all", "accept_redirects"))
	forwarding, _ := filepath.Glob(filepath.Join(conf, "*", "forwarding"))
	for _, path := range forwarding {
		add("%s %s", path, text(path))
	}
	lines = append(lines, ruleset(t)...)
	lines = append(lines, legacyRules()...)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func text(path ...string) string {
	raw, _ := os.ReadFile(filepath.Join(path...))
	return strings.TrimSpace(string(raw))
}

func legacyRules() (lines []string) {
	if !legacyTable("filter") {
		return nil
	}
	out, _ := exec.Command("/usr/sbin/iptables-legacy", "-S").Output()
	for at, line := range strings.Split(string(out), "\n") {
		lines = append(lines, fmt.Sprintf("legacy %03d %s", at, line))
	}
	return lines
}

// ruleset is all of nftables as lines.
func ruleset(t *testing.T) (lines []string) {
	t.Helper()
	conn := &nftables.Conn{}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		lines = append(lines, fmt.Sprintf("table %d %s", table.Family, table.Name))
		sets, err := conn.GetSets(table)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sets {
			lines = append(lines, fmt.Sprintf("set %d %s %s", table.Family, table.Name, s.Name))
			elements, err := conn.GetSetElements(s)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range elements {
				lines = append(lines, fmt.Sprintf("element %d %s %s %x", table.Family, table.Name, s.Name, e.Key))
			}
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		line := fmt.Sprintf("chain %d %s %s %s", c.Table.Family, c.Table.Name, c.Name, c.Type)
		if c.Hooknum != nil {
			line += fmt.Sprintf(" hook %d %d policy %d", *c.Hooknum, *c.Priority, *c.Policy)
		}
		lines = append(lines, line)
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			t.Fatal(err)
		}
		for at, r := range rules {
			lines = append(lines, fmt.Sprintf("rule %d %s %s %03d %s %s", c.Table.Family, c.Table.Name, c.Name, at, comment(r), exprs(c.Table.Family, r)))
		}
	}
	return lines
}

func exprs(f nftables.TableFamily, r *nftables.Rule) string {
	var all []string
	for _, e := range r.Exprs {
		if _, counts := e.(*expr.Counter); counts {
			all = append(all, "counter")
			continue
		}
		if l, looks := e.(*expr.Lookup); looks {
			l.SetID = 0
		}
		raw, err := expr.Marshal(byte(f), e)
		if err != nil {
			raw = []byte(err.Error())
		}
		all = append(all, hex.EncodeToString(raw))
	}
	return strings.Join(all, " ")
}

// same fails when two snapshots differ, and shows where.
func same(t *testing.T, what, got, want string) bool {
	t.Helper()
	if got == want {
		return true
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	var diff []string
	for _, line := range w {
		if !slices.Contains(g, line) {
			diff = append(diff, "- "+line)
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			diff = append(diff, "+ "+line)
		}
	}
	t.Errorf("%s:\n%s", what, strings.Join(diff, "\n"))
	return false
}

func none(w network.Wanted) network.Wanted { w.Guests = nil; return w }

func TestNothingIsLeft(t *testing.T) {
	if !inside(t) {
		return
	}
	for _, mode := range []network.Mode{network.Bridge, network.Usernet} {
		if mode == network.Usernet { // whose namespace is ours: it is up beforehand
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				t.Fatal(err)
			}
		}
		before := snapshot(t)
		mustApply(t, plan(mode, 3))
		mustApply(t, plan(mode, 1))
		mustApply(t, none(plan(mode, 0)))
		same(t, string(mode), snapshot(t), before)
		mustApply(t, none(plan(mode, 0)))
		same(t, "again", snapshot(t), before)
	}
}

// harden has settings that no host has by itself, and that the kernel loses with
// forwarding.
func harden(t *testing.T) {
	t.Helper()
	for file, value := range map[string]string{"all/accept_redirects": "0", "lo/forwarding": "1"} {
		if err := os.WriteFile(filepath.Join(conf, file), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestForwarding shows when forwarding is given back, and all that came with it.
func TestForwarding(t *testing.T) {
	if !inside(t) {
		return
	}
	other := plan(network.Bridge, 1)
	other.Instance, other.Subnet = otherOne, netip.MustParsePrefix("10.202.0.0/20")
	other.Guests[0].ID, other.Guests[0].Addr = "bbbbbbbbbbbb", netip.MustParseAddr("10.202.0.2")
	ours := plan(network.Bridge, 1)
	is := func(what, want string) {
		t.Helper()
		if got := text(ipForward); got != want {
			t.Errorf("%s: ip_forward is %s, want %s", what, got, want)
		}
	}
	harden(t)
	before := snapshot(t)
	mustApply(t, ours)
	mustApply(t, other)
	if err := setForwards("0"); err != nil { // somebody else, who does not know
		t.Fatal(err)
	}
	mustApply(t, other)
	is("it was switched off meanwhile", "1")
	mustApply(t, none(ours)) // ours switched it on, the other one still needs it
	is("another instance is there", "1")
	mustApply(t, none(other))
	is("nobody is there", "0")
	same(t, "afterwards", snapshot(t), before)

	mustApply(t, ours)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "docker0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	docker, err := netlink.LinkByName("docker0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(docker); err != nil {
		t.Fatal(err)
	}
	mustApply(t, none(ours))
	is("Docker came meanwhile", "1")
	mustApply(t, ours)
	mustApply(t, none(ours))
	is("it was on before", "1")
}

// applyEnv has the plan for a process that only applies it.
const applyEnv = "BANGER_TEST_APPLY"

// TestMain runs the process that a test kills.
func TestMain(m *testing.M) {
	raw := os.Getenv(applyEnv)
	if raw == "" {
		os.Exit(m.Run())
	}
	var w network.Wanted
	if err := json.Unmarshal([]byte(raw), &w); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("now\n")
	unlock, err := Lock(context.Background())
	if err == nil {
		defer unlock()
		_, err = Apply(context.Background(), w)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// applying starts a process that applies w, and returns when it begins to.
func applying(t *testing.T, w network.Wanted) (*exec.Cmd, io.Closer) {
	t.Helper()
	raw, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), applyEnv+"="+string(raw))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// TestKilled ends Apply at any moment. The next one makes the network as if nothing had
// happened, and one without guests leaves nothing.
func TestKilled(t *testing.T) {
	if !inside(t) {
		return
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that started a process
	times := 20
	if text := os.Getenv("BANGER_TEST_KILLS"); text != "" {
		fmt.Sscan(text, &times)
	}
	plans := []network.Wanted{plan(network.Bridge, 8), plan(network.Bridge, 3), plan(network.Usernet, 5), none(plan(network.Bridge, 0))}
	plans[1].Guests[0].Egress = false
	plans[1].Subnet = netip.MustParsePrefix("10.201.16.0/20")
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	harden(t)
	empty := snapshot(t)
	var fresh []string
	var longest time.Duration
	for _, w := range plans {
		at := time.Now()
		mustApply(t, w)
		longest = max(longest, time.Since(at))
		fresh = append(fresh, snapshot(t))
		mustApply(t, plans[3])
	}
	cut := 0
	for at := range times {
		n := rand.IntN(len(plans))
		cmd, out := applying(t, plans[n])
		time.Sleep(rand.N(longest)) // the moment is what is drawn, nothing is waited for
		cmd.Process.Kill()
		if cmd.Wait() != nil {
			cut++
		}
		out.Close()
		next := rand.IntN(len(plans))
		mustApply(t, plans[next])
		if !same(t, fmt.Sprintf("after %d kills, %d to %d", at+1, n, next), snapshot(t), fresh[next]) {
			return
		}
	}
	mustApply(t, plans[3])
	same(t, "at the end", snapshot(t), empty)
	t.Logf("%d of %d were killed before their end", cut, times)
}

// TestSequences shows that the way to a network does not matter.
func TestSequences(t *testing.T) {
	if !inside(t) {
		return
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	draw := func() network.Wanted {
		mode := []network.Mode{network.Bridge, network.Usernet}[random.IntN(2)]
		w := plan(mode, random.IntN(7))
		w.MTU = []int{1500, 1400, 9000}[random.IntN(3)]
		if random.IntN(3) == 0 {
			w.Subnet = netip.MustParsePrefix("10.77.32.0/20")
		}
		w.Guests = slices.DeleteFunc(w.Guests, func(network.Guest) bool { return random.IntN(4) == 0 })
		for i := range w.Guests {
			g := &w.Guests[i]
			g.Addr, _ = network.Addr(w.Subnet, 2+random.IntN(3)+3*i)
			g.Egress, g.Isolated = random.IntN(2) == 0, random.IntN(3) == 0
		}
		return w
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	var last network.Wanted
	for range 8 {
		for range 3 {
			last = draw()
			mustApply(t, last)
		}
		got := snapshot(t)
		mustApply(t, none(last))
		mustApply(t, last)
		if !same(t, fmt.Sprintf("seed %d", seed), got, snapshot(t)) {
			return
		}
	}
}

// TestTogether has two instances that change at the same time, and one that is changed
// twice.
func TestTogether(t *testing.T) {
	if !inside(t) {
		return
	}
	runtime.LockOSThread()
	before := snapshot(t)
	other := plan(network.Bridge, 2)
	other.Instance, other.Subnet = otherOne, netip.MustParsePrefix("10.202.0.0/20")
	for i := range other.Guests {
		other.Guests[i].ID = banger.VMID(fmt.Sprintf("b%011d", i))
		other.Guests[i].Addr, _ = network.Addr(other.Subnet, 2+i)
	}
	ours := plan(network.Bridge, 3)
	mustApply(t, ours)
	mustApply(t, other)
	both := snapshot(t)
	round := func(plans ...network.Wanted) {
		var started []*exec.Cmd
		for _, w := range plans {
			cmd, _ := applying(t, w)
			started = append(started, cmd)
		}
		for _, cmd := range started {
			if err := cmd.Wait(); err != nil {
				t.Errorf("apply: %v", err)
			}
		}
	}
	for range 3 {
		round(none(ours), none(other), none(ours))
		same(t, "both gone", snapshot(t), before)
		round(ours, other, ours)
		same(t, "both there", snapshot(t), both)
	}
}

// TestTakenNames has others' links and tables with our names. They are not touched.
func TestTakenNames(t *testing.T) {
	if !inside(t) {
		return
	}
	w := plan(network.Bridge, 2)
	attrs := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}
	link := func(l netlink.Link) func() (undo func() error, err error) {
		return func() (func() error, error) { return func() error { return netlink.LinkDel(l) }, netlink.LinkAdd(l) }
	}
	table := func(f nftables.TableFamily) func() (func() error, error) {
		return func() (func() error, error) {
			theirs := &nftables.Table{Family: f, Name: w.Instance.Table()}
			conn := &nftables.Conn{}
			conn.AddTable(theirs)
			return func() error { conn.DelTable(theirs); return conn.Flush() }, conn.Flush()
		}
	}
	for _, test := range []struct {
		name string
		make func() (func() error, error)
	}{
		{w.Instance.Bridge(), link(&netlink.Bridge{LinkAttrs: attrs(w.Instance.Bridge())})},
		{network.Tap(w.Guests[1].ID), link(&netlink.Bridge{LinkAttrs: attrs(network.Tap(w.Guests[1].ID))})},
		{w.Instance.Uplink(), link(&netlink.Bridge{LinkAttrs: attrs(w.Instance.Uplink())})},
		{"inet " + w.Instance.Table(), table(nftables.TableFamilyINet)},
		{"bridge " + w.Instance.Table(), table(nftables.TableFamilyBridge)},
	} {
		undo, err := test.make()
		if err != nil {
			t.Fatal(err)
		}
		before := snapshot(t)
		_, err = Apply(context.Background(), w)
		if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), test.name+" exists") || !strings.Contains(banger.FixOf(err), test.name) {
			t.Errorf("%s is taken: %v (%s)", test.name, err, banger.FixOf(err))
		}
		same(t, test.name+" is taken", snapshot(t), before)
		mustApply(t, none(w))
		same(t, test.name+" is taken, nothing wanted", snapshot(t), before)
		if err := undo(); err != nil {
			t.Fatal(err)
		}
	}
	mustApply(t, w)
}

func TestRefusals(t *testing.T) {
	if !inside(t) {
		return
	}
	before := snapshot(t)
	good := plan(network.Bridge, 2)
	for name, spoil := range map[string]func(w *network.Wanted){
		"instance":   func(w *network.Wanted) { w.Instance = "../../etc" },
		"subnet":     func(w *network.Wanted) { w.Subnet = netip.MustParsePrefix("fd00::/64") },
		"no subnet":  func(w *network.Wanted) { w.Subnet = netip.Prefix{} },
		"MTU":        func(w *network.Wanted) { w.MTU = 70000 },
		"ID":         func(w *network.Wanted) { w.Guests[0].ID = "xxxxxxxxxxxx" },
		"address":    func(w *network.Wanted) { w.Guests[0].Addr = netip.MustParseAddr("10.0.0.1") },
		"no address": func(w *network.Wanted) { w.Guests[0].Addr = netip.Addr{} },
		"gateway":    func(w *network.Wanted) { w.Guests[0].Addr = network.Gateway(w.Subnet) },
		"twice":      func(w *network.Wanted) { w.Guests[1].Addr = w.Guests[0].Addr },
		"same VM":    func(w *network.Wanted) { w.Guests[1].ID = w.Guests[0].ID },
		"owner":      func(w *network.Wanted) { w.Guests[0].Owner = -1 },
	} {
		w := good
		w.Guests = slices.Clone(good.Guests)
		spoil(&w)
		if _, err := Apply(context.Background(), w); err == nil {
			t.Errorf("%s: applied", name)
		}
	}
	withoutCapabilities(t, func() {
		_, err := Apply(context.Background(), good)
		if banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), "CAP_NET_ADMIN") || banger.FixOf(err) == "" {
			t.Errorf("without capabilities: %v (%s)", err, banger.FixOf(err))
		}
	})
	same(t, "afterwards", snapshot(t), before)
}

func TestExplanations(t *testing.T) {
	for _, test := range []struct {
		err  error
		fix  string
		says string
	}{
		{tunClosed(unix.EACCES), "chmod", "/dev/net/tun"},
		{tunClosed(unix.ENOENT), "modprobe tun", "/dev/net/tun"},
		{lacks(nftables.TableFamilyBridge, unix.EOPNOTSUPP), "CONFIG_NF_TABLES_BRIDGE", "bridge"},
		{lacks(nftables.TableFamilyINet, unix.EOPNOTSUPP), "modprobe", "nftables"},
		{explain(fmt.Errorf("make a bridge: %w", unix.EOPNOTSUPP)), "modprobe bridge", "no bridges"},
		{explain(fmt.Errorf("make a bridge: %w", unix.EPERM)), "root", "CAP_NET_ADMIN"},
		{explain(&os.PathError{Op: "write", Path: ipForward, Err: unix.EROFS}), "remount", "read-only"},
	} {
		if banger.KindOf(test.err) != banger.Unready || !strings.Contains(banger.FixOf(test.err), test.fix) || !strings.Contains(test.err.Error(), test.says) {
			t.Errorf("%v: fix %q, want %q", test.err, banger.FixOf(test.err), test.fix)
		}
	}
	if err := explain(io.EOF); !errors.Is(err, io.EOF) {
		t.Error("an error without a known cause is not itself")
	}
}

// TestMany writes the rules of more guests than one message holds by default.
func TestMany(t *testing.T) {
	if !inside(t) {
		return
	}
	many := plan(network.Bridge, 2000)
	a := &applier{ctx: context.Background(), Wanted: many}
	if err := a.ensureFirewall(firewall{}); err != nil {
		t.Fatal(err)
	}
	for _, of := range tables(many) {
		for _, s := range of.sets {
			got, err := (&nftables.Conn{}).GetSetElements(of.set(s))
			if err != nil || len(got) != len(s.keys) {
				t.Errorf("set %s has %d of %d elements: %v", s.name, len(got), len(s.keys), err)
			}
		}
	}
	a.Guests = many.Guests[:1]
	found, err := a.findFirewall()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ensureFirewall(found); err != nil {
		t.Fatal(err)
	}
}

// TestDocker has the chains of Docker, and a host that drops what it should forward.
func TestDocker(t *testing.T) {
	for name, setup := range map[string][]string{
		"nft with DOCKER-USER":    {"iptables-nft -N DOCKER-USER", "iptables-nft -A FORWARD -j DOCKER-USER", "iptables-nft -P FORWARD DROP"},
		"legacy with DOCKER-USER": {"iptables-legacy -N DOCKER-USER", "iptables-legacy -A FORWARD -j DOCKER-USER", "iptables-legacy -P FORWARD DROP"},
		"nft that drops":          {"iptables-nft -P FORWARD DROP"},
		"legacy that drops":       {"iptables-legacy -P FORWARD DROP", "iptables-legacy -P INPUT ACCEPT"},
		"its own rules":           {"nft add table inet filter", "nft add chain inet filter forward { type filter hook forward priority filter; policy drop; }"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			for _, command := range setup {
				if _, err := exec.LookPath("/usr/sbin/" + strings.Fields(command)[0]); err != nil {
					t.Skipf("install the packages iptables and nftables: %v", err)
				}
			}
			if !inside(t) {
				return
			}
			outside(t)
			if strings.HasPrefix(setup[0], "iptables-legacy") {
				output(t, "iptables-legacy", "-S") // makes the table, as the host had it before
			}
			for _, command := range setup {
				words := strings.SplitN(command, " ", 2)
				if words[0] == "nft" {
					output(t, words[0], words[1])
				} else {
					output(t, words[0], strings.Fields(words[1])...)
				}
			}
			before := snapshot(t)
			w := plan(network.Bridge, 2)
			w.Guests[1].Egress = false
			for range 2 {
				mustApply(t, w)
			}
			one, two := boot(t, w, w.Guests[0]), boot(t, w, w.Guests[1])
			two.serve(t, ":7")
			expect(t, "with egress", one.reach(outsideAddr, 7), "")
			expect(t, "without egress", two.reach(outsideAddr, 7), refused)
			expect(t, "guest to guest", one.reach(two.Addr, 7), "")
			for _, g := range []*guest{one, two} {
				g.tap.Close()
			}
			mustApply(t, none(w))
			same(t, "afterwards", snapshot(t), before)
		})
	}
}

func TestNotes(t *testing.T) {
	if !inside(t) {
		return
	}
	conn := &nftables.Conn{}
	drops := nftables.ChainPolicyDrop
	hosts := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "mine"})
	conn.AddChain(&nftables.Chain{Name: "in", Table: hosts, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drops})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	note := func(says, fix string) {
		t.Helper()
		notes := mustApply(t, plan(network.Bridge, 1)).Notes
		if len(notes) != 1 || !strings.Contains(notes[0].Text, says) || !strings.Contains(notes[0].Fix, fix) {
			t.Errorf("notes %v; want one that says %q and %q", notes, says, fix)
		}
	}
	note("names", "nft insert rule inet mine in iifname")
	conn.AddChain(&nftables.Chain{Name: "ufw-user-input", Table: hosts})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	note("names", "ufw allow in on "+testInstance.Bridge())
	firewalld := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "firewalld"})
	conn.AddChain(&nftables.Chain{Name: "filter_FORWARD", Table: firewalld})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	note("firewalld", "firewall-cmd --permanent --zone=trusted --add-interface="+testInstance.Bridge())
	zones := conn.AddChain(&nftables.Chain{Name: "filter_FORWARD_ZONES", Table: firewalld})
	conn.AddRule(&nftables.Rule{Table: firewalld, Chain: zones, Exprs: all(from(testInstance.Bridge()), accept)})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if notes := mustApply(t, plan(network.Bridge, 1)).Notes; len(notes) != 0 {
		t.Errorf("the bridge is in a zone, and there are the notes %v", notes)
	}
}
