package vm

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/vmm/vmmtest"
)

// knows makes a running VM's guest one that was told its address at boot.
func (w *world) knows(vm banger.VM) {
	w.t.Helper()
	o, err := w.find(vm.Name)
	if err != nil {
		w.t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	told := w.addressed(wire.Network{MAC: vm.Network.MAC, Domain: "vm", MTU: 1500}, o.row.Slot)
	o.run.boot.Told = &told
	if err := writeBoot(o.dir(), o.run.boot); err != nil {
		w.t.Fatal(err)
	}
}

func TestRenumber(t *testing.T) {
	w := newWorld(t)
	n := &aNetwork{subnet: netip.MustParsePrefix("10.201.0.0/20")}
	w.connected(n)
	otter := w.create("otter")
	w.knows(otter)
	w.stopped("wombat")
	w.fake.SetFaults(vmmtest.KnowsNoStats)
	w.knows(w.create("vole"))

	done, err := w.RenumberNetwork(t.Context(), banger.RenumberNetwork{Subnet: "10.202.16.0/20"}, nil)
	if err != nil || done.Was.String() != "10.201.0.0/20" || done.Now.String() != "10.202.16.0/20" || !slices.Equal(done.Later, []string{"vole"}) {
		t.Errorf("%v, %+v", err, done)
	}
	now := w.show1("otter").Network.Address
	if !done.Now.Contains(now) {
		t.Errorf("its address is %v", now)
	}
	if got := told(t, otter); !strings.Contains(got, `"addr":"`+now.String()+`/20","gateway":"10.202.16.1","resolver":"10.202.16.1"`) {
		t.Errorf("the guest was told %s", got)
	}

	elsewhere := netip.MustParsePrefix("10.203.0.0/20")
	n.moved.Store(&elsewhere) // as after a daemon that was killed amid it
	w.again()
	w.until("the guest knows", func() bool { return strings.Contains(told(t, otter), `"gateway":"10.203.0.1"`) })

	for _, bad := range []string{"x", "10.0.0.0", "10.0.0.0/200"} {
		if _, err := w.RenumberNetwork(t.Context(), banger.RenumberNetwork{Subnet: bad}, nil); banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "" {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
