package vm

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"banger"
	"banger/internal/vmm/vmmtest"
)

func (w *world) set(name string, opts banger.SetVM) banger.VM {
	w.t.Helper()
	vm, err := w.SetVM(w.t.Context(), name, opts, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return vm
}

// sizes checks the files of a VM's disks.
func (w *world) sizes(vm banger.VM, overlay, work banger.Size) {
	w.t.Helper()
	dir := w.Dirs.VM(vm.ID)
	for path, want := range map[string]banger.Size{dir.Overlay(): overlay, dir.Work(): work} {
		if info, err := os.Stat(path); err != nil || banger.Size(info.Size()) != want {
			w.t.Errorf("%s has %v, want %v: %v", path, info.Size(), want, err)
		}
	}
}

func TestSetStopped(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	vm := w.set("otter", banger.SetVM{VCPUs: 3, Memory: 512 * banger.MiB, Disk: 128 * banger.MiB})
	if vm.VCPUs != 3 || vm.Memory != 512*banger.MiB || vm.Disk != 128*banger.MiB || vm.Overlay != 64*banger.MiB || vm.State != banger.Stopped {
		t.Errorf("%+v", vm)
	}
	w.sizes(vm, 64*banger.MiB, 128*banger.MiB)
	w.again()
	if now := w.show1("otter"); now.VCPUs != 3 || now.Disk != 128*banger.MiB {
		t.Errorf("it was forgotten: %+v", now)
	}
	if vm := w.set("otter", banger.SetVM{Memory: 256 * banger.MiB, Apply: true}); vm.State != banger.Stopped || vm.VCPUs != 3 {
		t.Errorf("%+v", vm)
	}
}

// renamed is a fake driver by another name.
type renamed struct{ *vmmtest.Fake }

func (renamed) Name() string { return "other" }

// A VM moves to another driver with its disks, and back; a driver that does not
// work here changes nothing.
func TestSetDriver(t *testing.T) {
	w := newWorld(t)
	other := renamed{vmmtest.NewFake(t)}
	w.Drivers = append(w.Drivers, other)
	before := w.create("otter")
	if before.Driver != vmmtest.FakeName {
		t.Errorf("made for %s", before.Driver)
	}
	_, err := w.SetVM(t.Context(), "otter", banger.SetVM{Driver: "other"}, nil)
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(banger.FixOf(err), "--apply --driver other otter") {
		t.Errorf("while it runs: %v (fix: %s)", err, banger.FixOf(err))
	}
	moved := w.set("otter", banger.SetVM{Driver: "other", Apply: true})
	if moved.Driver != "other" || !moved.State.Up() || moved.PID == before.PID || moved.Disk != before.Disk || !strings.HasSuffix(moved.VMMLog, "other.log") {
		t.Errorf("%+v", moved)
	}
	w.sizes(moved, before.Overlay, before.Disk)
	w.again()
	if now := w.show1("otter"); now.Driver != "other" || now.PID != moved.PID {
		t.Errorf("after another daemon came: %+v", now)
	}
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
		t.Fatal(err)
	}
	other.SetFaults(vmmtest.FailsProbe)
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); banger.KindOf(err) != banger.Unready {
		t.Errorf("started by a driver that does not work: %v", err)
	}
	if vm := w.set("otter", banger.SetVM{Driver: "auto"}); vm.Driver != vmmtest.FakeName || vm.State != banger.Stopped {
		t.Errorf("%+v", vm)
	}
	if _, err := w.SetVM(t.Context(), "otter", banger.SetVM{Driver: "other"}, nil); banger.KindOf(err) != banger.Unready {
		t.Errorf("got %v", err)
	}
	if vm, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil || vm.Driver != vmmtest.FakeName {
		t.Errorf("%+v, %v", vm, err)
	}
}

func TestSetRunning(t *testing.T) {
	w := newWorld(t)
	before := w.create("otter")
	vm := w.set("otter", banger.SetVM{Overlay: 96 * banger.MiB, Disk: 128 * banger.MiB})
	if vm.PID != before.PID || vm.Overlay != 96*banger.MiB || vm.Disk != 128*banger.MiB {
		t.Errorf("%+v", vm)
	}
	w.sizes(vm, 96*banger.MiB, 128*banger.MiB)
	console, _ := os.ReadFile(vm.Console)
	if want := `grown {"disks":{"banger-ovl":100663296,"banger-work":134217728}}`; !strings.Contains(string(console), want) {
		t.Errorf("the guest was not asked:\n%s", console)
	}
	_, err := w.SetVM(t.Context(), "otter", banger.SetVM{Memory: 512 * banger.MiB, Disk: 160 * banger.MiB}, nil)
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(banger.FixOf(err), "banger vm set --apply --memory 512M --disk-size 160M otter") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
	w.sizes(vm, 96*banger.MiB, 128*banger.MiB)
	now := w.set("otter", banger.SetVM{Memory: 512 * banger.MiB, VCPUs: 2, Apply: true})
	if !now.State.Up() || now.BootID == before.BootID || now.Memory != 512*banger.MiB || now.VCPUs != 2 || now.Ending != banger.EndedPoweroff {
		t.Errorf("%+v", now)
	}
	if same := w.set("otter", banger.SetVM{Memory: 512 * banger.MiB}); same.PID != now.PID {
		t.Error("it was restarted for nothing")
	}
}

// TestSetComesBack: a VM that does not start with its new settings runs again
// with its old ones.
func TestSetComesBack(t *testing.T) {
	for _, failing := range []string{"ask the guest to shut down", "grow disks", "record", "boot"} {
		t.Run(failing, func(t *testing.T) {
			w := newWorld(t)
			before := w.create("otter")
			injected, failed := errors.New("injected"), false
			w.Operations.Before = func(step string) error {
				if step == failing && !failed {
					failed = true
					return injected
				}
				return nil
			}
			_, err := w.SetVM(t.Context(), "otter", banger.SetVM{Memory: 512 * banger.MiB, Disk: 128 * banger.MiB, Apply: true}, nil)
			if failing == "ask the guest to shut down" { // then it is ended
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, injected) {
				t.Errorf("got %v", err)
			}
			if now := w.show1("otter"); !now.State.Up() || now.PID == before.PID || now.Memory != before.Memory {
				t.Errorf("%+v", now)
			}
		})
	}
}

func TestSetRefused(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	for name, c := range map[string]struct {
		opts banger.SetVM
		kind banger.Kind
		why  string
	}{
		"nothing":      {banger.SetVM{Apply: true}, banger.Invalid, "no setting"},
		"shrink":       {banger.SetVM{Disk: 63 * banger.MiB}, banger.Invalid, "not between"},
		"large disk":   {banger.SetVM{Overlay: 1 << 60}, banger.Invalid, "not between"},
		"negative":     {banger.SetVM{Overlay: -1}, banger.Invalid, "not between"},
		"small memory": {banger.SetVM{Memory: banger.MiB, Apply: true}, banger.Invalid, "less than"},
		"large memory": {banger.SetVM{Memory: 1 << 60}, banger.Invalid, "more than"},
		"many vCPUs":   {banger.SetVM{VCPUs: 9, Apply: true}, banger.Invalid, "must be from"},
		"no vCPUs":     {banger.SetVM{VCPUs: -1}, banger.Invalid, "must be from"},
	} {
		_, err := w.SetVM(t.Context(), "otter", c.opts, nil)
		if banger.KindOf(err) != c.kind || banger.FixOf(err) == "" || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v (%s), fix %q", name, err, banger.KindOf(err), banger.FixOf(err))
		}
	}
	if now := w.show1("otter"); !reflect.DeepEqual(now, vm) {
		t.Errorf("it changed: %+v", now)
	}
	w.set("otter", banger.SetVM{Disk: 128 * banger.MiB})
	_, err := w.SetVM(t.Context(), "otter", banger.SetVM{Disk: 127 * banger.MiB}, nil)
	if banger.KindOf(err) != banger.Invalid || !strings.Contains(err.Error(), "127M is less than the 128M it has") {
		t.Errorf("got %v", err)
	}
	if _, err := w.SetVM(t.Context(), "nobody", banger.SetVM{VCPUs: 1}, nil); banger.KindOf(err) != banger.NotFound {
		t.Errorf("got %v", err)
	}
}

// TestGuestThatDoesNotGrow: its disks have grown all the same, and on record.
func TestGuestThatDoesNotGrow(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.RefusesGrow)
	w.create("mule")
	_, err := w.SetVM(t.Context(), "mule", banger.SetVM{Disk: 128 * banger.MiB}, nil)
	if err == nil || !strings.Contains(err.Error(), "told not to grow") || !strings.HasPrefix(banger.FixOf(err), "banger vm restart mule") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
	vm := w.show1("mule")
	w.sizes(vm, 64*banger.MiB, vm.Disk)
	if vm.Disk != 128*banger.MiB {
		t.Errorf("on record: %v", vm.Disk)
	}
}

// TestSetMemoryOfARunningVM: less, and what it was started with again, as often
// as one likes and by the hand of any daemon; no step that fails leaves it changed.
func TestSetMemoryOfARunningVM(t *testing.T) {
	w := newWorld(t)
	before := w.create("otter")
	full, less := before.Memory, before.Memory*3/4
	if before.Launched != full {
		t.Errorf("%+v", before)
	}
	assert := func(memory banger.Size) {
		t.Helper()
		vm := w.show1("otter")
		stats, err := w.VMStats(t.Context(), "otter")
		if err != nil || vm.Memory != memory || vm.Launched != full || vm.PID != before.PID || stats.Launched != full || stats.Balloon == nil || *stats.Balloon != full-memory {
			t.Errorf("want %v: %+v, %+v, %v", memory, vm, stats, err)
		}
	}
	w.set("otter", banger.SetVM{Memory: less})
	assert(less)
	w.again()
	assert(less)
	_, err := w.SetVM(t.Context(), "otter", banger.SetVM{Memory: full + banger.MiB}, nil)
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "started with") || !strings.Contains(banger.FixOf(err), "--apply") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
	w.Operations.Before = func(step string) error {
		if step == "record" {
			return errors.New("injected")
		}
		return nil
	}
	if _, err := w.SetVM(t.Context(), "otter", banger.SetVM{Memory: full}, nil); err == nil {
		t.Error("the failure was lost")
	}
	w.Operations.Before = nil
	assert(less)
	w.set("otter", banger.SetVM{Memory: full, Apply: true})
	assert(full)
}
