package store

import (
	"testing"
	"time"

	"banger"
)

// TestListsFollowEveryWrite: a list is never older than the last write, and
// belongs to who asked for it.
func TestListsFollowEveryWrite(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	id := banger.VMID("0123456789ab")
	list := func() []VM {
		t.Helper()
		all, err := s.VMs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, c := range []struct {
		name  string
		write func() error
		seen  func(VM) bool
	}{
		{"insert", func() error { return s.InsertVM(ctx, sample(string(id), "otter")) }, func(v VM) bool { return v.Name == "otter" }},
		{"rename", func() error { return s.Rename(ctx, id, "badger") }, func(v VM) bool { return v.Name == "badger" }},
		{"phase", func() error { return s.SetPhase(ctx, id, Ready) }, func(v VM) bool { return v.Phase == Ready }},
		{"wanted", func() error { return s.SetWanted(ctx, id, banger.Stopped) }, func(v VM) bool { return v.Wanted == banger.Stopped }},
		{"settings", func() error { return s.SetSettings(ctx, VM{ID: id, VCPUs: 3}) }, func(v VM) bool { return v.VCPUs == 3 }},
		{"ending", func() error { return s.SetEnding(ctx, id, banger.EndedCrashed, "", time.Now()) }, func(v VM) bool { return v.Ending == banger.EndedCrashed }},
	} {
		list()
		if err := c.write(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for range 2 {
			all := list()
			if len(all) != 1 || !c.seen(all[0]) {
				t.Fatalf("after %s: %+v", c.name, all)
			}
			all[0].Name = "another's"
		}
	}
	if err := s.DeleteVM(ctx, id); err != nil {
		t.Fatal(err)
	}
	if all := list(); len(all) != 0 {
		t.Errorf("after delete: %+v", all)
	}
}
