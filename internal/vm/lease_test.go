package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger"
	"banger/internal/linux"
	"banger/internal/vmm/vmmtest"
)

// client is one that holds a lease.
type client struct {
	name string
	file *os.File
}

func (w *world) client(name string) *client {
	w.t.Helper()
	path := w.Dirs.Lease(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = linux.TryLock(file)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { file.Close() })
	return &client{name, file}
}

var aLease = strings.Repeat("0a", 16)

// temporary creates a VM for a client.
func (w *world) temporary(c *client, name string) banger.VM {
	w.t.Helper()
	vm, err := w.CreateVM(w.t.Context(), banger.CreateVM{Name: name, Lease: c.name}, nil)
	if err != nil || !vm.Temporary {
		w.t.Fatalf("%+v, %v", vm, err)
	}
	return vm
}

// wantDeleted waits until nothing is left of a VM and its lease.
func (w *world) wantDeleted(vm banger.VM, lease string) {
	w.t.Helper()
	w.until("the deletion", func() bool {
		_, failed := w.row(vm.ID)
		_, left := os.Stat(vm.Dir)
		_, leased := os.Stat(w.Dirs.Lease(lease))
		return failed != nil && errors.Is(left, os.ErrNotExist) && errors.Is(leased, os.ErrNotExist)
	})
	if syscall.Kill(vm.PID, 0) == nil {
		w.until("the end of the VMM", func() bool { return syscall.Kill(vm.PID, 0) != nil })
	}
}

// TestLeaseEnds: the VM is deleted when its client ends, whatever state it is in, and
// whatever it is called by then.
func TestLeaseEnds(t *testing.T) {
	for name, before := range map[string]func(*world) error{
		"running": func(*world) error { return nil },
		"stopped": func(w *world) error {
			_, err := w.StopVM(w.t.Context(), "otter", banger.StopVM{Force: true}, nil)
			return err
		},
		"renamed": func(w *world) error {
			_, err := w.RenameVM(w.t.Context(), "otter", banger.RenameVM{Name: "badger"}, nil)
			return err
		},
		"paused": func(w *world) error { return syscall.Kill(w.show1("otter").PID, syscall.SIGSTOP) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			other := w.create("other")
			c := w.client(aLease)
			vm := w.temporary(c, "otter")
			if err := before(w); err != nil {
				t.Fatal(err)
			}
			c.file.Close()
			w.wantDeleted(vm, aLease)
			if !w.show1("other").State.Up() || w.show1("other").ID != other.ID {
				t.Error("another VM ended with it")
			}
		})
	}
}

// TestLeaseAcrossDaemons: a daemon that starts deletes the VM at once if its client has
// ended, and otherwise when it does.
func TestLeaseAcrossDaemons(t *testing.T) {
	w := newWorld(t)
	gone, alive := w.client(aLease), w.client(strings.Repeat("0b", 16))
	first, second := w.temporary(gone, "otter"), w.temporary(alive, "badger")
	w.Close() // from here on no daemon watches
	gone.file.Close()
	w.again()
	w.wantDeleted(first, gone.name)
	if vm := w.show1("badger"); !vm.State.Up() || vm.PID != second.PID || !vm.Temporary {
		t.Errorf("the VM of a client that lives: %+v", vm)
	}
	alive.file.Close()
	w.wantDeleted(second, alive.name)
}

// TestLeaseThatNobodyHolds makes no VM.
func TestLeaseThatNobodyHolds(t *testing.T) {
	w := newWorld(t)
	free := w.client(aLease)
	free.file.Close()
	for _, lease := range []string{aLease, strings.Repeat("0c", 16), "../../etc/passwd", "x"} {
		if _, err := w.CreateVM(t.Context(), banger.CreateVM{Name: "otter", Lease: lease}, nil); banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "" {
			t.Errorf("%q: %v", lease, err)
		}
	}
	if list, err := w.ListVMs(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	w.again()
	if left, _ := os.ReadDir(w.Dirs.Leases()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestDeletedBeforeItsLease: a client that deletes its VM itself leaves nothing to do.
func TestDeletedBeforeItsLease(t *testing.T) {
	w := newWorld(t)
	c := w.client(aLease)
	vm := w.temporary(c, "otter")
	if err := w.DeleteVM(t.Context(), "otter", banger.DeleteVM{Force: true}, nil); err != nil {
		t.Fatal(err)
	}
	c.file.Close()
	w.wantDeleted(vm, aLease)
}

// TestRestartWithoutItsClient: a guest that was asked to stop for a restart comes back,
// whenever the client goes away, and one that was not asked stays as it is.
func TestRestartWithoutItsClient(t *testing.T) {
	for _, c := range []struct {
		at   string
		done bool
		same bool // the VMM stays
	}{
		{"ask the guest to shut down", false, true}, {"ask the guest to shut down", true, false}, {"shutting down", false, false},
		{"shutting down", true, false}, {"lock", false, false}, {"launch", true, false}, {"boot", false, false},
	} {
		w := newWorld(t)
		vm := w.create("otter")
		ctx, cancel := context.WithCancel(t.Context())
		_, err := w.RestartVM(ctx, "otter", banger.StopVM{}, func(e banger.Step) {
			if e.Step == c.at && e.Done == c.done {
				cancel()
			}
		})
		now := w.show1("otter")
		if banger.KindOf(err) != banger.Canceled || !now.State.Up() || (now.PID == vm.PID) != c.same {
			t.Errorf("%s (done: %v): %v; it is %s, process %d after %d", c.at, c.done, err, now.State, now.PID, vm.PID)
		}
		cancel()
	}
}

// TestRestartOfAStoppedVMIsUndone: it was not running before.
func TestRestartOfAStoppedVMIsUndone(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	w.fake.SetFaults(vmmtest.NeverReady)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.RestartVM(ctx, "otter", banger.StopVM{}, func(e banger.Step) {
		if e.Step == "boot" {
			cancel()
		}
	})
	if now := w.show1("otter"); banger.KindOf(err) != banger.Canceled || now.State != banger.Stopped {
		t.Errorf("%v; it is %s", err, now.State)
	}
}
