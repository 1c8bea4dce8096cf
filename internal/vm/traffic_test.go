package vm

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"banger"
	"banger/internal/network"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// aNetwork is one without links: it counts and fails as it is told.
type aNetwork struct {
	NoNetwork
	fails   error
	subnet  netip.Prefix // before the first change
	moved   atomic.Pointer[netip.Prefix]
	adopted map[int]network.Guest
	gone    sync.Map // the IDs of VMs that were detached

	conflict atomic.Pointer[network.Note]
	changed  chan struct{}
	traffic  map[banger.VMID]network.Traffic
}

func (n *aNetwork) Mode() network.Mode { return network.Usernet }

func (n *aNetwork) Subnet() netip.Prefix {
	if moved := n.moved.Load(); moved != nil {
		return *moved
	}
	return n.subnet
}

func (n *aNetwork) Addr(slot int) netip.Addr {
	a, _ := network.Addr(n.Subnet(), slot)
	return a
}

func (n *aNetwork) Renumber(_ context.Context, wanted netip.Prefix) (netip.Prefix, error) {
	if n.fails == nil {
		n.moved.Store(&wanted)
	}
	return n.Subnet(), n.fails
}

func (n *aNetwork) Why() error { return nil }

func (n *aNetwork) Attach(context.Context, string, network.Guest) (*vmm.NIC, *vmm.Namespace, []network.Note, error) {
	return nil, nil, nil, n.fails
}

func (n *aNetwork) Adopt(_ context.Context, running map[int]network.Guest) error {
	n.adopted = running
	return nil
}

func (n *aNetwork) Conflict() *network.Note { return n.conflict.Load() }

func (n *aNetwork) Watch(ctx context.Context, changed func()) {
	for {
		select {
		case <-n.changed:
			changed()
		case <-ctx.Done():
			return
		}
	}
}

func (n *aNetwork) Detach(_ context.Context, id banger.VMID) (network.Traffic, error) {
	n.gone.Store(id, true)
	return n.traffic[id], nil
}

func (n *aNetwork) Traffic(context.Context) (map[banger.VMID]network.Traffic, error) {
	return n.traffic, nil
}

func (w *world) connected(n *aNetwork) {
	w.Network = n
	w.Config.Network = "auto"
}

func TestStatsCountTheTrafficOfAllRuns(t *testing.T) {
	w := newWorld(t)
	n := &aNetwork{}
	w.connected(n)
	vm := w.create("otter")
	n.traffic = map[banger.VMID]network.Traffic{vm.ID: {Received: 300, Sent: 20}, "000000000000": {Received: 7, Sent: 7}}
	want := func(received, sent banger.Size) {
		t.Helper()
		s, err := w.VMStats(t.Context(), "otter")
		if err != nil || s.NetworkReceived != received || s.NetworkSent != sent {
			t.Errorf("%v: got %d, %d; want %d, %d", err, s.NetworkReceived, s.NetworkSent, received, sent)
		}
	}
	want(300, 20)
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
		t.Fatal(err)
	}
	want(300, 20)
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
		t.Fatal(err)
	}
	want(600, 40)
}

// TestNetworkProblems: a VM that shall have a network and has none tells so.
func TestNetworkProblems(t *testing.T) {
	w := newWorld(t)
	n := &aNetwork{fails: &banger.Error{Kind: banger.Unready, Why: errors.New("the moon is full"), Fix: "wait for the sun"}}
	w.connected(n)
	otter := w.create("otter")
	if p := otter.Problems; len(p) != 1 || p[0].Kind != banger.ProblemNetwork || !strings.Contains(p[0].Text, "no network: the moon is full") || p[0].Fix != "wait for the sun" {
		t.Errorf("%+v", p)
	}
	if got := otter.Network; got.Mode != "none" || got.Why != "the moon is full" || got.Fix != "wait for the sun" {
		t.Errorf("%+v", got)
	}
	w.again() // another daemon knows it, too
	w.until("adopted", func() bool { return len(w.show1("otter").Problems) == 1 })

	n.fails = nil
	w.fake.SetFaults(vmmtest.NoNetwork)
	vm, err := w.RestartVM(t.Context(), "otter", banger.StopVM{}, nil)
	if p := vm.Problems; err != nil || len(p) != 1 || p[0].Kind != banger.ProblemNetwork || !strings.Contains(p[0].Text, "there is no card") || p[0].Fix != "banger vm restart otter" {
		t.Errorf("%v, %+v", err, p)
	}

	w.Config.Network = noNetwork // nobody misses what was not asked for
	n.fails = errors.New("the moon is full")
	w.fake.SetFaults()
	if p := w.create("wombat").Problems; len(p) != 0 {
		t.Errorf("%+v", p)
	}
}

// TestConflictIsAProblem: what the host gets in the way of a running VM's network is told
// at once, and gone as soon as it is cured.
func TestConflictIsAProblem(t *testing.T) {
	w := newWorld(t)
	n := &aNetwork{changed: make(chan struct{})}
	w.connected(n)
	w.again() // whoever opens the VMs watches the network
	w.create("otter")
	w.stopped("wombat")
	if p := w.show1("otter").Problems; len(p) != 0 {
		t.Errorf("before: %+v", p)
	}
	n.conflict.Store(&network.Note{Text: "this host has a route to 10.200.0.0/24", Fix: "banger network renumber"})
	n.changed <- struct{}{}
	if p := w.show1("otter").Problems; len(p) != 1 || p[0].Kind != banger.ProblemNetwork || p[0].Text != "this host has a route to 10.200.0.0/24" || p[0].Fix != "banger network renumber" {
		t.Errorf("%+v", p)
	}
	if p := w.show1("wombat").Problems; len(p) != 0 {
		t.Errorf("a stopped VM: %+v", p)
	}
	n.conflict.Store(nil)
	n.changed <- struct{}{}
	if p := w.show1("otter").Problems; len(p) != 0 {
		t.Errorf("cured: %+v", p)
	}
}
