package cli

import (
	"slices"
	"testing"

	"banger"
)

func TestKillAndRename(t *testing.T) {
	f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
	f.run(t, setup{}, "vm", "rename", "wombat", "badger").want(t, 0, "renamed wombat to badger\n", "")
	f.run(t, setup{}, "vm", "rename", "otter", "kestrel").want(t, 0, "renamed otter to kestrel\n", "")
	f.run(t, setup{}, "vm", "rename", "kestrel", "hawk").want(t, 0, "renamed kestrel to hawk (the host name inside stays kestrel)\n", "")
	f.run(t, setup{}, "vm", "rename", "hawk", "kestrel").want(t, 0, "renamed hawk to kestrel\n", "")
	for _, args := range [][]string{{"kestrel"}, {"kestrel", "Bad"}, {"kestrel", ""}, {"a", "b", "c"}} {
		if r := f.run(t, setup{}, append([]string{"vm", "rename"}, args...)...); r.code != 2 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	f.run(t, setup{}, "vm", "kill", "kestrel").want(t, 0, "kestrel: stopped\n", "")
	if r := f.run(t, setup{}, "vm", "kill", "-s", "KILL", "badger"); r.code != 4 {
		t.Errorf("%+v", r)
	}
	if want := []string{"kill kestrel TERM", "kill badger KILL"}; !slices.Equal(f.took, want) {
		t.Errorf("got %q", f.took)
	}
}
