package vm

import (
	"strings"
	"testing"

	"banger"
	"banger/internal/disk"
)

// TestDisksThatCanNeverFitAreRefused, and what only may not fit is noted.
func TestDisksThatCanNeverFitAreRefused(t *testing.T) {
	w := newWorld(t)
	total, _, err := disk.Space(w.Dirs.VMs())
	if err != nil {
		t.Fatal(err)
	}
	if total >= disk.Largest {
		t.Skipf("%v is more than any disk can have: run the test with TMPDIR on a smaller file system", total)
	}
	w.stopped("otter")
	before := w.String()
	huge := total + banger.MiB
	_, err = w.CreateVM(t.Context(), banger.CreateVM{Name: "vole", Overlay: huge}, nil)
	w.neverFits(err, "--overlay-size")
	_, err = w.SetVM(t.Context(), "otter", banger.SetVM{Disk: huge}, nil)
	w.neverFits(err, "--disk-size")
	if got := w.String(); got != before {
		t.Errorf("changed:\n%s\nwant\n%s", got, before)
	}

	notes := ""
	hear := func(e banger.Step) { notes += e.Note }
	if _, err := w.SetVM(t.Context(), "otter", banger.SetVM{Disk: 96 * banger.MiB}, hear); err != nil || notes != "" {
		t.Errorf("got %v, %q", err, notes)
	}
	if _, err := w.SetVM(t.Context(), "otter", banger.SetVM{Disk: total}, hear); err != nil || !strings.Contains(notes, "free now") {
		t.Errorf("got %v, %q", err, notes)
	}
	notes = ""
	w.Config.Disk = huge // a default is not refused
	if _, err := w.CreateVM(t.Context(), banger.CreateVM{Name: "vole", NoStart: true}, hear); err != nil || !strings.Contains(notes, "may grow by") {
		t.Errorf("got %v, %q", err, notes)
	}
}

// TestHalf: a fix proposes a size that a person would write.
func TestHalf(t *testing.T) {
	for size, want := range map[banger.Size]string{24 * banger.GiB: "8G", 25268*banger.MiB - 4096: "8G", 2 * banger.GiB: "1G", 3 * banger.TiB: "1T", 900 * banger.MiB: "256M"} {
		if got := half(size); got != want {
			t.Errorf("half of %v: %s, want %s", size, got, want)
		}
	}
}

func (w *world) neverFits(err error, flag string) {
	w.t.Helper()
	if banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), flag+" of ") || !strings.HasPrefix(banger.FixOf(err), flag+" ") {
		w.t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
}
