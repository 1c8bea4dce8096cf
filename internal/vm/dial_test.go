package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/vmm/vmmtest"
)

// TestDialOfAMuteAgent holds the VMM, and with it the guest, on: connections
// are made, and nobody answers.
func TestDialOfAMuteAgent(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	w.signal(vm, syscall.SIGSTOP)
	w.until("the VMM is held", func() bool { return held(vm.PID) })
	defer w.signal(vm, syscall.SIGCONT)

	const bound = 50 * time.Millisecond
	began := time.Now()
	_, err := w.dial(t.Context(), "otter", vmmtest.PortEcho, bound)
	if took := time.Since(began); took < bound {
		t.Errorf("gave up after %s", took)
	}
	if banger.KindOf(err) != banger.TimedOut || banger.FixOf(err) != "banger vm logs otter" || !strings.Contains(err.Error(), "agent does not answer") {
		t.Errorf("got %v (%s), fix %q", err, banger.KindOf(err), banger.FixOf(err))
	}

	sooner, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if _, err := w.DialVM(sooner, "otter", vmmtest.PortEcho); banger.KindOf(err) != banger.TimedOut {
		t.Errorf("the caller's own deadline: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	time.AfterFunc(bound, cancel)
	if _, err := w.DialVM(gone, "otter", vmmtest.PortEcho); banger.KindOf(err) != banger.Canceled {
		t.Errorf("a caller that goes away: %v", err)
	}
}

// TestDialOfABusyAgent: one that answers otherwise is waited for.
func TestDialOfABusyAgent(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.AnswersLate)
	w.create("otter")
	const bound = 50 * time.Millisecond
	began := time.Now()
	conn, err := w.dial(t.Context(), "otter", vmmtest.PortEcho, bound)
	if err != nil || time.Since(began) < bound {
		t.Fatalf("after %v: %v", time.Since(began), err)
	}
	conn.Close()
}

func (w *world) signal(vm banger.VM, sig syscall.Signal) {
	w.t.Helper()
	if err := syscall.Kill(vm.PID, sig); err != nil {
		w.t.Error(err)
	}
}

// held says whether every thread of a process has stopped: they do so one by one.
func held(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil || !bytes.Contains(stat, []byte(") T ")) {
			return false
		}
	}
	return len(threads) > 0
}
