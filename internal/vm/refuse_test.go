package vm

import (
	"testing"

	"banger"
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
	w.owner(vm.ID).happen(banger.Delete)
	_, start := w.StartVM(ctx, "otter", banger.StartVM{}, nil)
	_, restart := w.RestartVM(ctx, "otter", banger.StopVM{}, nil)
	_, set := w.SetVM(ctx, "otter", banger.SetVM{VCPUs: 1}, nil)
	for _, c := range []struct {
		err       error
		kind      banger.Kind
		text, fix string
	}{
		{log, banger.Invalid, `there is no log "lunch"`, "use console or vmm"},
		{port, banger.Invalid, `0 is not a port`, "use a port from 1 to 65535"},
		{nothing, banger.Invalid, `set VM "otter": no setting is given`, "banger vm set --memory 2048 otter"},
		{start, banger.Conflict, `cannot start VM "otter" while it is being deleted`, "banger vm delete otter"},
		{restart, banger.Conflict, `cannot restart VM "otter" while it is being deleted`, "banger vm delete otter"},
		{set, banger.Conflict, `cannot set VM "otter" while it is being deleted`, "banger vm delete otter"},
	} {
		if c.err == nil || c.err.Error() != c.text || banger.KindOf(c.err) != c.kind || banger.FixOf(c.err) != c.fix {
			t.Errorf("got %v (%s), fix %q; want %s", c.err, banger.KindOf(c.err), banger.FixOf(c.err), c.text)
		}
	}
}
