package banger_test

import (
	"slices"
	"strings"
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

// TestTransitions checks the table of states as a whole: what holds for every VM,
// whatever happens to it and in which order.
func TestTransitions(t *testing.T) {
	type cause struct {
		from banger.State
		verb banger.Verb
	}
	seen := map[cause]bool{}
	for _, row := range banger.Transitions {
		if seen[cause{row.From, row.Verb}] {
			t.Errorf("%q by %q has two rows", row.From, row.Verb)
		}
		seen[cause{row.From, row.Verb}] = true
		if row.Wait && (row.To != banger.Gone || row.Wanted != "") {
			t.Errorf("%+v: a verb that waits changes nothing yet", row)
		}
		if row.To.Up() && row.Wanted == banger.WantStopped {
			t.Errorf("%+v: a VM that is up is wanted stopped", row)
		}
	}
	known := append(slices.Clone(banger.States), banger.Gone)
	for _, state := range known {
		if !slices.Contains(reachable(banger.Gone), state) {
			t.Errorf("nothing leads to %q", state)
		}
		if !slices.Contains(reachable(state), banger.Gone) {
			t.Errorf("nothing leads from %q to the end", state)
		}
		if !slices.Contains(reachable(state), banger.Running) {
			t.Errorf("nothing leads from %q to a VM that runs", state) // a deleted name can be used again
		}
	}
	for _, row := range banger.Transitions {
		if !slices.Contains(known, row.From) || !slices.Contains(known, row.To) {
			t.Errorf("%+v: no such state", row)
		}
	}
}

// reachable returns every state that a VM in a state can come to.
func reachable(from banger.State) []banger.State {
	states := []banger.State{from}
	for n := 0; n < len(states); n++ {
		for _, row := range banger.Transitions {
			if row.From == states[n] && !row.Wait && !slices.Contains(states, row.To) {
				states = append(states, row.To)
			}
		}
	}
	return states
}

// TestADeletedVMIsNotFound: a verb may have waited for the end of the deletion.
func TestADeletedVMIsNotFound(t *testing.T) {
	err := banger.Refuse(banger.Stop, "otter", banger.Gone)
	if banger.KindOf(err) != banger.NotFound || err.Error() != `there is no VM "otter"` || banger.FixOf(err) != "banger vm list" {
		t.Errorf("%v, fix %q", err, banger.FixOf(err))
	}
}

// TestEveryVerbHasAnAnswer: in each state, a command is taken, waits, or is refused
// with a sentence that names the VM and with a command that works there.
func TestEveryVerbHasAnAnswer(t *testing.T) {
	for _, state := range banger.States {
		for _, verb := range []banger.Verb{banger.Start, banger.Stop, banger.Restart, banger.Set, banger.Rename, banger.Delete, banger.ForceDelete, banger.Kill, banger.FsckDisks, banger.Reach} {
			if _, ok := state.On(verb); ok {
				continue
			}
			err := banger.Refuse(verb, "otter", state)
			if banger.KindOf(err) != banger.Conflict || !strings.HasPrefix(err.Error(), "cannot "+string(verb)+` VM "otter" while it is `) {
				t.Errorf("%s while %s: %v", verb, state, err)
			}
			if !strings.HasPrefix(banger.FixOf(err), "banger vm ") || !strings.Contains(banger.FixOf(err), "otter") {
				t.Errorf("%s while %s: fix %q", verb, state, banger.FixOf(err))
			}
		}
	}
}
