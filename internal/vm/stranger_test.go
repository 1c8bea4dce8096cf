package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/store"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// deaf is a driver whose VMMs do not answer a new daemon.
type deaf struct{ vmm.Driver }

func (deaf) Adopt(_ context.Context, dir string) (vmm.Machine, error) {
	if locked, err := vmm.Locked(config.VMDir(dir).Lock()); err != nil || !locked {
		return nil, errors.Join(err, vmm.ErrGone)
	}
	return nil, errors.New("no answer")
}

// TestStrangers: a VMM that could not be adopted keeps its disks until it has ended.
func TestStrangers(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"otter", "badger", "mole"} {
		w.create(name)
	}
	w.Drivers = vmm.Drivers{deaf{w.fake}}
	w.again()
	before := w.String()
	for verb, do := range map[string]func() error{
		"start":  func() error { _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); return err },
		"stop":   func() error { _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); return err },
		"set":    func() error { _, err := w.SetVM(t.Context(), "otter", banger.SetVM{VCPUs: 1}, nil); return err },
		"delete": func() error { return w.DeleteVM(t.Context(), "otter", banger.DeleteVM{}, nil) },
	} {
		if err := do(); banger.KindOf(err) != banger.Conflict || banger.FixOf(err) == "" {
			t.Errorf("%s: %v, fix %q", verb, err, banger.FixOf(err))
		}
	}
	if after := w.String(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	lock := w.Dirs.VM(w.show1("badger").ID).Lock()
	if vm, err := w.StopVM(t.Context(), "otter", banger.StopVM{Force: true}, nil); err != nil || vm.Ending != banger.EndedKilled {
		t.Errorf("stop by force: %v, %+v", err, vm)
	}
	if vm, err := w.KillVM(t.Context(), "mole", banger.KillVM{Signal: "KILL"}, nil); err != nil || vm.Ending != banger.EndedKilled {
		t.Errorf("kill: %v, %+v", err, vm)
	}
	if _, err := w.KillVM(t.Context(), "mole", banger.KillVM{Signal: "KILL"}, nil); banger.KindOf(err) != banger.Conflict {
		t.Errorf("kill once more: %v", err)
	}
	if err := w.DeleteVM(t.Context(), "badger", banger.DeleteVM{Force: true}, nil); err != nil {
		t.Errorf("delete by force: %v", err)
	}
	if held, err := vmm.Holder(lock); err != vmm.ErrGone {
		t.Errorf("process %d has the disks of a deleted VM: %v", held, err)
	}
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
		t.Error(err)
	}
}

// TestStrangersKeepTheirNetwork: a VMM that could not be adopted has its card until it
// has ended.
func TestStrangersKeepTheirNetwork(t *testing.T) {
	w := newWorld(t)
	n := &aNetwork{}
	w.connected(n)
	vms := map[string]banger.VM{}
	for _, name := range []string{"otter", "badger"} {
		vms[name] = w.create(name)
	}
	w.stopped("mole")
	w.Drivers = vmm.Drivers{deaf{w.fake}}
	w.again()
	if len(n.adopted) != 2 || n.adopted[vms["otter"].PID].ID != vms["otter"].ID || n.adopted[vms["badger"].PID].ID != vms["badger"].ID {
		t.Errorf("adopted %+v", n.adopted)
	}
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{Force: true}, nil); err != nil {
		t.Error(err)
	}
	if err := w.DeleteVM(t.Context(), "badger", banger.DeleteVM{Force: true}, nil); err != nil {
		t.Error(err)
	}
	for name, vm := range vms {
		if _, detached := n.gone.Load(vm.ID); !detached {
			t.Errorf("%s still has its card", name)
		}
	}
}

// TestDeletionWaitsForTheVMM: also one that an earlier daemon has begun.
func TestDeletionWaitsForTheVMM(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	if err := w.Store.SetPhase(t.Context(), vm.ID, store.Deleting); err != nil {
		t.Fatal(err)
	}
	w.again()
	dir := w.Dirs.VM(vm.ID)
	if pid, err := vmm.Holder(dir.Lock()); err != nil || pid != vm.PID {
		t.Errorf("process %d has the lock, want %d: %v", pid, vm.PID, err)
	}
	if _, err := os.Stat(dir.Work()); err != nil {
		t.Errorf("its disks, while process %d has them: %v", vm.PID, err)
	}
	if err := w.DeleteVM(t.Context(), "otter", banger.DeleteVM{Force: true}, nil); err != nil {
		t.Error(err)
	}
}

// TestDeletionOffTheRecord: on a full disk a directory's name is all that tells of
// a deletion.
func TestDeletionOffTheRecord(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	id := w.show1("otter").ID
	if err := os.Rename(string(w.Dirs.VM(id)), string(w.Dirs.GoneVM(id))); err != nil {
		t.Fatal(err)
	}
	w.again()
	if _, err := w.ShowVM(t.Context(), "otter"); banger.KindOf(err) != banger.NotFound {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(string(w.Dirs.GoneVM(id))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its files: %v", err)
	}
}

// TestMarkOffTheRecord: that name is on the disk before the first file is removed.
func TestMarkOffTheRecord(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	dir := string(w.Dirs.VM(w.show1("otter").ID))
	w.disk.Each(func() {
		_, err := os.Stat(dir)
		if err != nil && slices.Contains(w.disk.Names(w.Dirs.VMs()), filepath.Base(dir)) {
			t.Error("a power cut brings back a VM without its files")
		}
	})
	w.Operations.Before = func(step string) error {
		if step == "mark" {
			return store.ErrFull
		}
		return nil
	}
	if err := w.DeleteVM(t.Context(), "otter", banger.DeleteVM{}, nil); err != nil {
		t.Error(err)
	}
}

// TestCancelledOnceItIsDone: who cancels when a VM is up is too late. Nothing that
// runs is taken for what has failed.
func TestCancelledOnceItIsDone(t *testing.T) {
	w := newWorld(t)
	for verb, do := range map[string]func(context.Context, banger.Progress) error{
		"create": func(ctx context.Context, p banger.Progress) error {
			_, err := w.CreateVM(ctx, banger.CreateVM{Name: "otter"}, p)
			return err
		},
		"set": func(ctx context.Context, p banger.Progress) error {
			w.create("badger")
			_, err := w.SetVM(ctx, "badger", banger.SetVM{Memory: 300 * banger.MiB, Apply: true}, p)
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if err := do(ctx, func(e banger.Step) {
			if e.Step == "boot" && e.Done {
				cancel()
			}
		}); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
		cancel()
	}
	for name, memory := range map[string]banger.Size{"otter": 256 * banger.MiB, "badger": 300 * banger.MiB} {
		if vm := w.show1(name); !vm.State.Up() || vm.Memory != memory {
			t.Errorf("%+v", vm)
		}
	}
}

// TestStopThatWasNotBegun: a guest that has not heard of a stop is still wanted, by
// the next daemon as well.
func TestStopThatWasNotBegun(t *testing.T) {
	w := newWorld(t)
	id := w.create("otter").ID
	for _, c := range []struct {
		opts banger.StopVM
		step string
	}{{banger.StopVM{}, "ask the guest to shut down"}, {banger.StopVM{Force: true}, "force off"}} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := w.StopVM(ctx, "otter", c.opts, func(e banger.Step) {
			if e.Step == c.step {
				cancel()
			}
		})
		row, failed := w.row(id)
		if banger.KindOf(err) != banger.Canceled || failed != nil || row.Wanted != banger.WantRunning {
			t.Errorf("%+v: %v; wanted %s, %v", c.opts, err, row.Wanted, failed)
		}
	}
}

// TestRebootAcrossDaemons: a guest that asked for a reboot gets it, though the
// daemon stops amid the start.
func TestRebootAcrossDaemons(t *testing.T) {
	w := newWorld(t)
	first := w.create("otter")
	w.fake.SetFaults(vmmtest.NeverReady)
	w.act("otter", "reboot")
	w.until("the start", func() bool {
		vm := w.show1("otter")
		return vm.State == banger.Starting && vm.PID != first.PID && vm.PID != 0
	})
	w.fake.SetFaults()
	w.again()
	w.until("the reboot", func() bool { return w.show1("otter").State.Up() })
}

// TestImageThatIsGone: a VM needs its own name of the image's files, no other.
func TestImageThatIsGone(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	if err := os.RemoveAll(string(w.Dirs.Image(w.Installed.Image.ID))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
		t.Error(err)
	}
}
