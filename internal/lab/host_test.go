//go:build vm

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"banger"
)

// These tests change the network and the resolver of the machine itself.

// ownHost is set on a machine that is there for the tests only.
const ownHost = "BANGER_TEST_OWN_HOST"

func needOwnHost(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 || os.Getenv(ownHost) == "" {
		t.Skip("it changes the network and the resolver of this machine; fix: make lab, which has a machine of its own")
	}
}

// finds returns the address that programs of this machine find for a name, if they do.
func finds(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("getent", "hosts", name).Output()
	var exit *exec.ExitError
	const unknown = 2
	if errors.As(err, &exit) && exit.ExitCode() == unknown {
		return ""
	}
	if err != nil {
		t.Fatalf("getent hosts %s: %v", name, err)
	}
	return strings.Fields(string(out))[0]
}

func (b *bridged) found(t *testing.T, vm banger.VM) {
	t.Helper()
	if got, want := finds(t, vm.Name+".vm"), vm.Network.Address.String(); got != want {
		t.Errorf("this machine finds %q for %s.vm, want %s", got, vm.Name, want)
	}
}

// TestWholeHost: programs of root's machine find VMs by their names, and the machine is as
// before once the last VM has gone.
func TestWholeHost(t *testing.T) {
	needOwnHost(t)
	b := &bridged{home: own(t)}
	b.env = append(b.env, "BANGER_NETWORK=auto")
	harden(t)
	tiny := b.tiny(t)
	b.banger(t, "daemon", "stop")
	leavesNothing := func(do func(*testing.T)) func(*testing.T) {
		return func(t *testing.T) {
			before := b.state(t)
			do(t)
			b.banger(t, "daemon", "stop")
			b.unchanged(t, before)
		}
	}
	t.Run("names", leavesNothing(func(t *testing.T) { b.named(t, tiny) }))
	t.Run("changes", leavesNothing(func(t *testing.T) { b.renamed(t, tiny) }))
	for _, iptables := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run("Docker with "+iptables, func(t *testing.T) {
			dockersChains(t, iptables)
			leavesNothing(func(t *testing.T) { b.pair(t, tiny) })(t)
		})
	}
}

// harden has the machine refuse what the kernel accepts by itself, as careful people do,
// and one of its links forward: the kernel forgets both when it begins to forward.
func harden(t *testing.T) {
	t.Helper()
	set := func(redirects, forwarding int) {
		netns{}.sh(t, fmt.Sprintf("sysctl -qw net.ipv4.conf.all.accept_redirects=%d net.ipv4.conf.lo.forwarding=%d", redirects, forwarding))
	}
	set(0, 1)
	t.Cleanup(func() { set(1, 0) })
}

// named: a name is found while its VM runs, also under another systemd-resolved.
func (b *bridged) named(t *testing.T, tiny string) {
	vm := b.create(t, "--name", "otter", "--image", tiny)
	b.found(t, vm)
	if row := b.checked(t, "names"); row.State != "ok" || !strings.Contains(row.Detail, "systemd-resolved") {
		t.Errorf("doctor says %+v", row)
	}
	if got := finds(t, "nobody-here.vm"); got != "" {
		t.Errorf("nobody is %s", got)
	}
	netns{}.sh(t, "systemctl restart systemd-resolved")
	b.found(t, vm)
	b.sh(t, vm.Name, "ping -c 1 -W 10 "+outsideAddr)
	b.banger(t, "vm", "delete", "--yes", "--force", vm.Name)
	if got := finds(t, vm.Name+".vm"); got != "" {
		t.Errorf("after its end it is %s", got)
	}
}

// renamed: the machine follows new names and addresses, and the end of one VM of several,
// also of one that ends while no daemon runs.
func (b *bridged) renamed(t *testing.T, tiny string) {
	vm := b.create(t, "--name", "otter", "--image", tiny)
	near := b.create(t, "--name", "wombat", "--image", tiny)
	b.found(t, vm)
	b.found(t, near)
	forgotten := func(name string) {
		t.Helper()
		until(t, 10*time.Second, name+" is forgotten", func() bool { return finds(t, name+".vm") == "" })
	}
	b.banger(t, "vm", "rename", vm.Name, "beaver")
	b.found(t, b.show(t, "beaver"))
	forgotten("otter")
	b.banger(t, "network", "renumber")
	moved := b.show(t, "beaver")
	if moved.Network.Address == vm.Network.Address {
		t.Errorf("it still has %s", moved.Network.Address)
	}
	until(t, 10*time.Second, "the new address", func() bool { return finds(t, "beaver.vm") == moved.Network.Address.String() })
	b.banger(t, "vm", "delete", "--yes", "--force", "wombat")
	forgotten("wombat")
	b.found(t, moved)
	pid := b.vmm(t, "beaver")
	b.banger(t, "daemon", "stop")
	b.found(t, moved)
	if err := errors.Join(end(pid), gone(pid, time.Minute)); err != nil {
		t.Fatal(err)
	}
	b.banger(t, "vm", "delete", "--yes", "--force", "beaver")
	if got := finds(t, "beaver.vm"); got != "" {
		t.Errorf("after its end it is %s", got)
	}
}

// end kills a process.
func end(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

// dockersChains makes the chains of a machine on which Docker runs: what it does not know
// is dropped, and with br_netfilter frames from guest to guest pass the chains, too.
func dockersChains(t *testing.T, iptables string) {
	t.Helper()
	run := func(script string) string { return netns{}.sh(t, "iptables() { "+iptables+" \"$@\"; }\n"+script) }
	t.Log(run(`modprobe -q br_netfilter || true
iptables -P FORWARD DROP
iptables -N DOCKER-USER
iptables -A DOCKER-USER -j RETURN
iptables -I FORWARD -j DOCKER-USER
sysctl -qw net.ipv4.ip_forward=1
sysctl net.bridge.bridge-nf-call-iptables || true
iptables --version`))
	t.Cleanup(func() {
		run(`iptables -D FORWARD -j DOCKER-USER
iptables -F DOCKER-USER
iptables -X DOCKER-USER
iptables -P FORWARD ACCEPT
sysctl -qw net.ipv4.ip_forward=0`)
	})
}

// pair are two VMs that reach each other and the outside, and are found.
func (b *bridged) pair(t *testing.T, tiny string) {
	vm := b.create(t, "--name", "whale", "--image", tiny)
	near := b.create(t, "--name", "walrus", "--image", tiny)
	b.found(t, vm)
	b.found(t, near)
	b.sh(t, vm.Name, "ping -c 1 -W 10 "+near.Network.Address.String())
	b.sh(t, vm.Name, "ping -c 1 -W 10 "+outsideAddr)
	b.banger(t, "vm", "set", "--no-nat", vm.Name)
	if r := b.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "ping", "-c", "1", "-W", "2", outsideAddr); r.code == 0 {
		t.Error("without NAT the outside answers")
	}
	b.banger(t, "vm", "delete", "--yes", "--force", vm.Name, near.Name)
}

// checked is a row of doctor's.
type checked struct{ Name, State, Detail, Fix string }

func (h *home) checked(t *testing.T, name string) checked {
	t.Helper()
	var got struct{ Checks []checked }
	out := h.run(t.Context(), nil, "doctor", "--json").stdout // whose exit status is about all rows
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, row := range got.Checks {
		if row.Name == name {
			return row
		}
	}
	t.Fatalf("doctor has no row %s: %s", name, out)
	return checked{}
}

// TestNamesByDropIn: what doctor offers a plain user has programs of the machine find
// their VMs.
func TestNamesByDropIn(t *testing.T) {
	needOwnHost(t)
	h := plain(t)
	h.env = append(h.env, "BANGER_NETWORK=auto")
	create := func() netip.Addr { return h.create(t, "--name", "otter", "--image", h.tiny(t)).Network.Address }
	addr := create()
	before := resolver(t)
	if got := finds(t, "otter.vm"); got != "" {
		t.Errorf("before, it is %s", got)
	}
	row := h.checked(t, "names")
	if row.State != "warn" || !strings.HasPrefix(row.Fix, "sudo ") {
		t.Fatalf("doctor says %+v", row)
	}
	t.Log(row.Fix)
	netns{}.sh(t, row.Fix)
	t.Run("found", func(t *testing.T) {
		if got := finds(t, "otter.vm"); got != addr.String() {
			t.Errorf("it is %q, want %s", got, addr)
		}
		if got := finds(t, outside); got == "" {
			t.Errorf("%s is not found any more", outside)
		}
		if row := h.checked(t, "names"); row.State != "ok" {
			t.Errorf("doctor says %+v", row)
		}
	})
	t.Run("while nobody answers, and again", func(t *testing.T) {
		h.banger(t, "vm", "delete", "--yes", "--force", "otter")
		for range 3 { // systemd-resolved turns away from a server that does not answer
			if got := finds(t, "otter.vm"); got != "" {
				t.Errorf("after its end it is %s", got)
			}
		}
		if addr, got := create(), finds(t, "otter.vm"); got != addr.String() {
			t.Errorf("the next one is %q, want %s", got, addr)
		}
	})
	netns{}.sh(t, "rm /etc/systemd/resolved.conf.d/banger.conf; rmdir /etc/systemd/resolved.conf.d || true; systemctl restart systemd-resolved")
	if now := resolver(t); now != before {
		t.Errorf("without the drop-in it is %s\nwas %s", now, before)
	}
}
