package instance

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"banger/internal/network"
	"banger/internal/network/namespace"
)

// TestLooksAgain: a host that was closed when the daemon started, and was opened since,
// gives the next VM a network.
func TestLooksAgain(t *testing.T) {
	if err := namespace.Check(t.Context()); err != nil {
		t.Skipf("a plain user has no network here: %v", err)
	}
	n := &Network{Config: Config{Log: slog.New(slog.DiscardHandler)}, chosen: make(chan struct{})}
	subnet := netip.MustParsePrefix("10.201.16.0/20")
	n.subnet.Store(&subnet)
	n.without(errors.New("closed"))
	if n.Mode() != network.None || n.Why() == nil {
		t.Fatalf("mode %s, %v", n.Mode(), n.Why())
	}
	if err := n.usable(t.Context()); err != nil || n.Mode() != network.Usernet || n.Why() != nil {
		t.Errorf("mode %s, %v, %v", n.Mode(), n.Why(), err)
	}
}
