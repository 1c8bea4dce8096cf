package forward

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"banger"
	"banger/internal/network"
)

// world is some VMs, without sockets.
type world struct {
	vms  []*vm
	last uint64
}

func (w *world) set(id banger.VMID, slot int, wanted Wanted) {
	at := slices.IndexFunc(w.vms, func(v *vm) bool { return v.id == id })
	if at < 0 {
		w.vms = append(w.vms, newVM(id, 1))
		at = len(w.vms) - 1
	}
	v := w.vms[at]
	v.Wanted = wanted
	v.own, _ = network.Loopback(instance, slot)
	v.queue(&w.last)
}

// had returns the addresses that a VM has for what listens in it.
func (w *world) had(id banger.VMID, lowest uint16) map[string]bool {
	had := map[string]bool{}
	for at, c := range newPlan(w.vms, lowest, nil).holders {
		if c.vm.id == id && c.rank != published {
			had[fmt.Sprintf("%v to %d", at, c.port)] = true
		}
	}
	return had
}

func somePorts() []Port {
	numbers := []uint16{80, 81, 3000, 8080, 8081}
	rand.Shuffle(len(numbers), func(i, j int) { numbers[i], numbers[j] = numbers[j], numbers[i] })
	return listening(numbers[:rand.IntN(len(numbers)+1)]...)
}

// Whatever a guest listens on, no other VM loses an address, and nothing listens beyond
// the host that was not published.
func TestGuestsTakeNothingFromOthers(t *testing.T) {
	ids := []banger.VMID{"a", "b", "c", "d"}
	publishes := [][]banger.Publish{nil, {{Host: 8080, Port: 80}}, {{Addr: netip.IPv4Unspecified(), Host: 3000, Port: 80}}, nil}
	for range 300 {
		w := &world{}
		for round := range 20 {
			at := rand.IntN(len(ids))
			if round < len(ids) {
				at = round
			}
			lowest := uint16(1024)
			before := map[banger.VMID]map[string]bool{}
			for _, id := range ids {
				before[id] = w.had(id, lowest)
			}
			w.set(ids[at], at+2, Wanted{Auto: true, Listening: somePorts(), Published: publishes[at]})
			for _, id := range ids {
				now := w.had(id, lowest)
				for address := range before[id] {
					if id != ids[at] && !now[address] && round >= len(ids) {
						t.Fatalf("%s took %s from %s", ids[at], address, id)
					}
				}
			}
			for address, c := range newPlan(w.vms, lowest, nil).holders {
				if !address.Addr().IsLoopback() && c.rank != published || address.Port() < lowest {
					t.Fatalf("%v for %s", address, c.vm.id)
				}
			}
		}
	}
}

func TestPublishedWins(t *testing.T) {
	w := &world{}
	w.set("a", 2, Wanted{Auto: true, Listening: listening(8080)})
	w.set("b", 3, Wanted{Published: []banger.Publish{{Host: 8080, Port: 80}}})
	w.set("c", 4, Wanted{Published: []banger.Publish{{Addr: loopback4, Host: 8080, Port: 80}}})
	holders := newPlan(w.vms, 0, nil).holders
	for _, at := range localhost(8080) {
		if holders[at].vm.id != "b" {
			t.Errorf("%v is for %s", at, holders[at].vm.id)
		}
	}
}

func TestNearestSocket(t *testing.T) {
	other, port := netip.MustParseAddr("10.0.0.5"), uint16(3000)
	for _, c := range []struct {
		addrs []netip.Addr
		want  netip.Addr
	}{
		{[]netip.Addr{other, loopback6, loopback4}, loopback4},
		{[]netip.Addr{other, loopback6}, loopback6},
		{[]netip.Addr{other}, other},
	} {
		var ports []Port
		for _, addr := range c.addrs {
			ports = append(ports, Port{At: netip.AddrPortFrom(addr, port)})
		}
		w := &world{}
		w.set("a", 2, Wanted{Listening: append(ports, Port{})})
		if found, listens := w.vms[0].find(port); !listens || found.At.Addr() != c.want || len(w.vms[0].ports) != 1 {
			t.Errorf("%v: %v, %v", c.addrs, found, listens)
		}
	}
}
