package store

import (
	"net/netip"
	"testing"

	"banger"
	"banger/internal/network"
)

// TestSlots: each VM has a slot of its own for its whole life, and a VM for which there
// is none left is refused.
func TestSlots(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	first := sample("0123456789ab", "otter")
	if err := insert(ctx, s, first); err != nil {
		t.Fatal(err)
	}
	// A VM that begins at the place of the first gets the next one.
	if _, err := s.writer.Exec("UPDATE vms SET id = 'ffffffffffff', name = 'other'"); err != nil {
		t.Fatal(err)
	}
	if slot, err := s.InsertVM(ctx, first); err != nil || slot != first.Slot+1 {
		t.Errorf("slot %d, %v; want %d", slot, err, first.Slot+1)
	}
	_, err := s.writer.Exec(`WITH RECURSIVE all_slots (n) AS (SELECT ? UNION ALL SELECT n + 1 FROM all_slots WHERE n < ?)
		INSERT INTO vms ( `+vmColumns+`) SELECT 'x' || n, 'x' || n, '', '', '', '', 1, 1, 1, 1, '', '', n, 1, 0, '', 0, 0, '', '', 0, 'ready', 'stopped', '', '', 0
		FROM all_slots WHERE n NOT IN (SELECT slot FROM vms)`, network.FirstSlot, network.LastSlot)
	if err != nil {
		t.Fatal(err)
	}
	if err := insert(ctx, s, sample("ba9876543210", "mole")); banger.KindOf(err) != banger.Conflict || banger.FixOf(err) == "" {
		t.Errorf("one VM too many: %v", err)
	}
	if err := s.DeleteVM(ctx, "x77"); err != nil {
		t.Fatal(err)
	}
	if slot, err := s.InsertVM(ctx, sample("ba9876543210", "mole")); err != nil || slot != 77 {
		t.Errorf("slot %d, %v; want 77, which is free", slot, err)
	}
}

func TestSubnet(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	if got, err := s.Subnet(ctx); err != nil || got.IsValid() {
		t.Errorf("at first: %v, %v", got, err)
	}
	for _, want := range []string{"10.201.16.0/20", "10.202.32.0/20"} {
		if err := s.SetSubnet(ctx, netip.MustParsePrefix(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Subnet(ctx); err != nil || got.String() != want {
			t.Errorf("got %v, %v; want %s", got, err, want)
		}
	}
}

func TestTrafficAddsUp(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	if err := insert(ctx, s, sample("0123456789ab", "otter")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.AddTraffic(ctx, "0123456789ab", 3*banger.MiB, banger.KiB); err != nil {
			t.Fatal(err)
		}
	}
	vms, err := s.VMs(ctx)
	if err != nil || vms[0].Received != 6*banger.MiB || vms[0].Sent != 2*banger.KiB {
		t.Errorf("%+v, %v", vms, err)
	}
}
