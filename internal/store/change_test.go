package store

import (
	"reflect"
	"testing"

	"banger"
)

func TestSettingsAndNames(t *testing.T) {
	s, ctx := openStocked(t), t.Context()
	want, other := sample("0123456789ab", "calm-otter"), sample("0123456789ac", "keen-otter")
	changed := want
	changed.VCPUs, changed.Memory, changed.Overlay, changed.Disk, changed.Driver = 4, 2*banger.GiB, 9*banger.GiB, 32*banger.GiB, "another"
	for _, err := range []error{insert(ctx, s, want), insert(ctx, s, other), s.SetSettings(ctx, changed), s.Rename(ctx, want.ID, "brisk-otter"), s.Rename(ctx, want.ID, "brisk-otter")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Rename(ctx, want.ID, other.Name); banger.KindOf(err) != banger.Conflict || banger.FixOf(err) == "" {
		t.Errorf("a taken name: %v", err)
	}
	want = changed
	want.Name = "brisk-otter"
	if got, err := s.vm(ctx, want.ID); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
	if got, err := s.vm(ctx, other.ID); err != nil || !reflect.DeepEqual(got, other) {
		t.Errorf("the other: %+v, %v", got, err)
	}
	for _, err := range []error{s.Rename(ctx, "ffffffffffff", "new"), s.SetSettings(ctx, VM{ID: "ffffffffffff"})} {
		if banger.KindOf(err) != banger.NotFound {
			t.Errorf("of a VM that is not there: %v", err)
		}
	}
}
