package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/store"
)

// momentary are the files in a VM's directory that are of no use after the
// host's power was cut: they are about a VMM that runs.
var momentary = []string{"lock", "boot.json", config.InitrdName, "." + config.InitrdName + "-*", config.ConsoleName, config.ConsoleName + ".1", "fake.*"}

// survives checks that a power cut now would leave, of each VM on record, all
// of it, and nothing of any other.
func (w *world) survives() {
	w.t.Helper()
	rows, err := w.Store.VMs(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, row := range rows {
		dir := w.Dirs.VM(row.ID)
		if row.Phase != store.Ready {
			continue
		}
		w.disk.Check(string(dir), momentary...)
		for path, size := range map[string]banger.Size{dir.Overlay(): row.Overlay, dir.Work(): row.Disk, dir.HostKey(): 0} {
			if info, err := os.Stat(path); err != nil || banger.Size(info.Size()) < size {
				w.t.Errorf("on record are %v for %s: %v", size, path, err)
			}
		}
	}
	for _, name := range w.disk.Names(w.Dirs.VMs()) {
		if !slices.ContainsFunc(rows, func(row store.VM) bool { return strings.HasSuffix(name, string(row.ID)) }) {
			w.t.Errorf("a power cut leaves %s, which is on no record", name)
		}
	}
	w.disk.Check(w.Dirs.SSH(), ".*") // what is being written aside
}

// TestPowerCut looks at the disk whenever something has come onto it, and at
// the end of each verb.
func TestPowerCut(t *testing.T) {
	w := newWorld(t)
	w.disk.Check(w.Dirs.VMs())
	w.disk.Each(w.survives)
	ctx := t.Context()
	for _, verb := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error {
			_, err := w.CreateVM(ctx, banger.CreateVM{Name: "otter", NoStart: true}, nil)
			return err
		}},
		{"set", func() error {
			_, err := w.SetVM(ctx, "otter", banger.SetVM{Overlay: 80 * banger.MiB, Disk: 80 * banger.MiB}, nil)
			return err
		}},
		{"rename", func() error { _, err := w.RenameVM(ctx, "otter", banger.RenameVM{Name: "fox"}, nil); return err }},
		{"start", func() error { _, err := w.StartVM(ctx, "fox", banger.StartVM{}, nil); return err }},
		{"set while it runs", func() error {
			_, err := w.SetVM(ctx, "fox", banger.SetVM{Overlay: 88 * banger.MiB, Disk: 88 * banger.MiB}, nil)
			return err
		}},
		{"stop", func() error { _, err := w.StopVM(ctx, "fox", banger.StopVM{}, nil); return err }},
		{"delete", func() error { return w.DeleteVM(ctx, "fox", banger.DeleteVM{}, nil) }},
	} {
		if err := verb.do(); err != nil {
			t.Fatalf("%s: %v", verb.name, err)
		}
		w.survives()
		if t.Failed() {
			t.Fatalf("that was %s", verb.name)
		}
	}
	// A cached initrd that was cut off would be taken for a whole one.
	cached, err := filepath.Glob(filepath.Join(w.Dirs.Initrds(), "*.cpio"))
	if err != nil || len(cached) != 1 {
		t.Fatalf("%v, %v", cached, err)
	}
	w.disk.Check(cached[0])
}
