package vm

import (
	"context"
	"sync"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/vmm"
)

// TestLockIsTheVMMs: nobody else has it while the VM runs, nobody afterwards,
// and no VM starts without it.
func TestLockIsTheVMMs(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	lock := config.VMDir(vm.Dir).Lock()
	if _, err := vmm.Lock(lock); err != vmm.ErrLocked {
		t.Errorf("while it runs: %v", err)
	}
	w.onlyOne("otter")
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
		t.Fatal(err)
	}
	held, err := vmm.Lock(lock)
	if err != nil {
		t.Fatalf("once it is stopped: %v", err)
	}
	before := w.String()
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); banger.KindOf(err) != banger.Conflict || banger.FixOf(err) == "" {
		t.Errorf("while another VMM has the disks: %v, fix %q", err, banger.FixOf(err))
	}
	if after := w.String(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	held.Close()
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
		t.Error(err)
	}
}

// TestWantedBeforeItIsLaunched: a daemon that finds a VMM has to know whether
// it was asked for.
func TestWantedBeforeItIsLaunched(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
		t.Fatal(err)
	}
	w.Operations.Before = func(step string) error {
		if row, err := w.row(vm.ID); step == "launch" && (err != nil || row.Wanted != banger.WantRunning) {
			t.Errorf("as it is launched it is wanted %s, %v", row.Wanted, err)
		}
		return nil
	}
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
		t.Error(err)
	}
}

// TestKillBesideStart: a kill asks whether the VM runs, and no start fails for that.
func TestKillBesideStart(t *testing.T) {
	w := newWorld(t)
	lock := config.VMDir(w.create("otter").Dir).Lock()
	ctx, cancel := context.WithCancel(t.Context())
	var killers sync.WaitGroup
	defer killers.Wait()
	defer cancel()
	for range 2 {
		killers.Go(func() {
			for ctx.Err() == nil { // as KillVM does, without a turn
				if _, err := vmm.Locked(lock); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{Force: true}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
			t.Fatal(err)
		}
	}
}
