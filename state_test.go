package banger_test

import (
	"testing"

	"banger"
)

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
