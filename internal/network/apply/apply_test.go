package apply

import (
	"testing"

	"banger/internal/network"
)

func TestEgress(t *testing.T) {
	if !inside(t) {
		return
	}
	w := plan(network.Bridge, 3)
	w.Guests[1].Egress = false
	outside(t)
	mustApply(t, w)
	with, without := boot(t, w, w.Guests[0]), boot(t, w, w.Guests[1])
	without.serve(t, ":7")
	if got := with.reach(outsideAddr, 7); got != "" {
		t.Errorf("a guest with egress: %s", got)
	}
	if got := without.reach(outsideAddr, 7); got != "refused at once" {
		t.Errorf("a guest without egress: %q", got)
	}
	if got := with.reach(without.Addr, 7); got != "" {
		t.Errorf("guest to guest: %s", got)
	}
}
