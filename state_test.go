package banger_test

import (
	"testing"

	"banger"
)

func TestCanBecome(t *testing.T) {
	states := []banger.State{banger.Stopped, banger.Starting, banger.Running, banger.Stopping, banger.Deleting}
	may := map[[2]banger.State]bool{
		{banger.Stopped, banger.Starting}: true,
		{banger.Stopped, banger.Deleting}: true,
		{banger.Starting, banger.Running}: true,
		{banger.Starting, banger.Stopped}: true,
		{banger.Running, banger.Stopping}: true,
		{banger.Running, banger.Stopped}:  true,
		{banger.Running, banger.Starting}: true,
		{banger.Stopping, banger.Stopped}: true,
	}
	for _, from := range states {
		for _, to := range states {
			if got := from.CanBecome(to); got != may[[2]banger.State{from, to}] {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
	}
	if banger.State("lost").CanBecome(banger.Running) {
		t.Error("a state that is none can become something")
	}
}

func TestOnlyTheGuestsOwnEndsAreClean(t *testing.T) {
	for ending, want := range map[banger.Ending]bool{
		banger.EndedNever: false, banger.EndedPoweroff: true, banger.EndedReboot: true, banger.EndedHalt: true,
		banger.EndedUnclean: false, banger.EndedCrashed: false, banger.EndedKilled: false, banger.EndedVMMDied: false, banger.EndedHostDown: false,
	} {
		if ending.Clean() != want {
			t.Errorf("%q: clean is %v", ending, !want)
		}
	}
}
