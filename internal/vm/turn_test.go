package vm

import (
	"context"
	"strings"
	"testing"

	"banger"
	"banger/internal/vmm/vmmtest"
)

// TestFewVMsBootAtOnce: a start beyond them says that it waits, can be
// cancelled, and continues as soon as another has come up.
func TestFewVMsBootAtOnce(t *testing.T) {
	w := newWorld(t)
	vm, err := w.CreateVM(t.Context(), banger.CreateVM{Name: "otter", NoStart: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range cap(w.boots) {
		w.boots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	before := w.String()
	_, err = w.StartVM(ctx, vm.Name, banger.StartVM{}, func(e banger.Step) {
		if strings.Contains(e.Note, "otter waits") {
			cancel()
		}
	})
	if banger.KindOf(err) != banger.Canceled {
		t.Errorf("got %v", err)
	}
	if got := w.String(); got != before {
		t.Errorf("left behind:\n%s\nwant\n%s", got, before)
	}
	_, err = w.StartVM(t.Context(), vm.Name, banger.StartVM{}, func(e banger.Step) {
		if e.Note != "" {
			<-w.boots
		}
	})
	if err != nil {
		t.Error(err)
	}
	if len(w.boots) != cap(w.boots)-1 {
		t.Errorf("%d turns are taken, want %d", len(w.boots), cap(w.boots)-1)
	}
}

// TestTimerIsMeasuredAgain: a guest without a timer boots anew, but not for ever.
func TestTimerIsMeasuredAgain(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	before := w.String()
	w.fake.SetFaults(vmmtest.HasNoTimer)
	boots := 0
	start := func(last int) error {
		boots = 0
		_, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, func(e banger.Step) {
			if e.Step == "launch" && e.Done {
				if boots++; boots == last {
					w.fake.SetFaults()
				}
			}
		})
		return err
	}
	if err := start(-1); err == nil || boots != mostBoots || banger.FixOf(err) != "mend it" || !strings.Contains(err.Error(), "the host was busy") {
		t.Errorf("%d boots: %v", boots, err)
	}
	if after := w.String(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if err := start(2); err != nil || boots != 3 {
		t.Errorf("%d boots: %v", boots, err)
	}
}
