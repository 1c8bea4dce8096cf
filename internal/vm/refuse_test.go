package vm

import (
	"testing"

	"banger"
	"banger/internal/store"
)

// TestRefusals: what only a client other than the CLI can ask, or only at the
// wrong moment, is refused with a reason and a way out.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.stopped("otter")
	vm := w.show1("otter")
	_, log := w.VMLogs(ctx, "otter", banger.VMLogs{Kind: "lunch"})
	_, port := w.DialVM(ctx, "otter", 0)
	_, nothing := w.SetVM(ctx, "otter", banger.SetVM{Apply: true}, nil)
	if err := w.Store.SetPhase(ctx, vm.ID, store.Deleting); err != nil {
		t.Fatal(err)
	}
	_, start := w.StartVM(ctx, "otter", banger.StartVM{}, nil)
	_, restart := w.RestartVM(ctx, "otter", banger.StopVM{}, nil)
	_, set := w.SetVM(ctx, "otter", banger.SetVM{VCPUs: 1}, nil)
	for _, c := range []struct {
		err       error
		kind      banger.Kind
		text, fix string
	}{
		{log, banger.Invalid, `there is no log "lunch"`, "use console or vmm"},
		{port, banger.Invalid, `reach VM "otter": 0 is not a port`, "use a port from 1 to 65535"},
		{nothing, banger.Invalid, `set VM "otter": nothing is to be changed`, "banger vm set --memory 2048 otter"},
		{start, banger.Conflict, `start VM "otter": it is being deleted`, "banger vm delete otter, should it still be there"},
		{restart, banger.Conflict, `restart VM "otter": it is being deleted`, "banger vm delete otter, should it still be there"},
		{set, banger.Conflict, `set VM "otter": it is being deleted`, "banger vm delete otter, should it still be there"},
	} {
		if c.err == nil || c.err.Error() != c.text || banger.KindOf(c.err) != c.kind || banger.FixOf(c.err) != c.fix {
			t.Errorf("got %v (%s), fix %q; want %s", c.err, banger.KindOf(c.err), banger.FixOf(c.err), c.text)
		}
	}
}
