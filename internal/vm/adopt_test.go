package vm

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// amidBoot returns a VM whose daemon was killed while its guest booted, and which the next
// one has adopted. Its guest does not answer before its VMM gets a SIGUSR1.
func (w *world) amidBoot() banger.VM {
	w.t.Helper()
	w.t.Cleanup(w.endVMMs)
	last := 0
	w.bring(banger.Stopped)
	w.Operations.Before = func(string) error { last++; return nil }
	w.bring(banger.Running)
	w.Operations.Before = nil
	w.outlive(shortLife{Verb: "start", Step: last - 1, After: 50 * time.Millisecond, Faults: []vmmtest.Fault{vmmtest.SlowBoot}})
	return w.show1("otter")
}

// TestStartAmidAnAdoptedBoot: a start of a VM that an earlier daemon has launched waits for
// its agent, as that one's start did.
func TestStartAmidAnAdoptedBoot(t *testing.T) {
	for name, c := range map[string]struct {
		ends syscall.Signal
		same bool // the VMM
	}{
		"that succeeds": {syscall.SIGUSR1, true},
		"that fails":    {syscall.SIGKILL, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			vm := w.amidBoot()
			began := make(chan struct{}, 8)
			type result struct {
				vm  banger.VM
				err error
			}
			done := make(chan result, 1)
			go func() {
				now, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, func(s banger.Step) {
					if s.Step == "boot" && !s.Done {
						began <- struct{}{}
					}
				})
				done <- result{now, err}
			}()
			wait := (<-chan time.Time)(nil)
			for waited := false; !waited; {
				select {
				case <-began:
					wait = time.After(50 * time.Millisecond)
				case <-wait:
					waited = true
				case r := <-done:
					t.Fatalf("it did not wait: %+v, %v", r.vm, r.err)
				}
			}
			w.signal(vm, c.ends)
			r := <-done
			if r.err != nil || !r.vm.State.Up() || r.vm.BootID == "" || (r.vm.PID == vm.PID) != c.same {
				t.Errorf("process %d is now %+v, %v", vm.PID, r.vm, r.err)
			}
			w.onlyOne("otter")
		})
	}
}

// TestStartAmidAnAdoptedBootInVain: a guest that stays silent may have been at work for
// long. The start fails, and the guest continues.
func TestStartAmidAnAdoptedBootInVain(t *testing.T) {
	w := newWorld(t)
	vm := w.amidBoot()
	_, err := w.StartVM(t.Context(), "otter", banger.StartVM{Timeout: 50 * time.Millisecond}, nil)
	if banger.KindOf(err) != banger.TimedOut || !strings.Contains(err.Error(), "did not answer within 50ms") || banger.FixOf(err) != "banger vm restart otter" {
		t.Errorf("%v (%s), fix %q", err, banger.KindOf(err), banger.FixOf(err))
	}
	if now := w.show1("otter"); now.PID != vm.PID || !now.State.Up() {
		t.Errorf("process %d is now %+v", vm.PID, now)
	}
	full := vmm.DiskError{Role: vmm.Work, Errno: syscall.ENOSPC, Paused: true}
	if err := vmmtest.FailDisks(t.Context(), vm.Dir, full); err != nil {
		t.Fatal(err)
	}
	w.until("the problem", func() bool { return len(w.show1("otter").Problems) == 1 })
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); banger.KindOf(err) != banger.Unready || !strings.HasPrefix(banger.FixOf(err), "free space on ") {
		t.Errorf("a paused guest: %v, fix %q", err, banger.FixOf(err))
	}
}
