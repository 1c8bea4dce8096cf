//go:build vm

package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestClock: a guest's clock that is wrong is set to the host's.
func TestClock(t *testing.T) {
	t.Parallel()
	h := own(t)
	vm := h.create(t, "--name", "clock", "--image", h.tiny(t))
	// The guest prints whole seconds, at some moment during the exec.
	off := func() time.Duration {
		t.Helper()
		before := time.Now()
		guest := time.Unix(int64(number(t, h.sh(t, vm.Name, "date +%s"))), 0)
		switch after := time.Now(); {
		case guest.Add(time.Second).Before(before):
			return guest.Add(time.Second).Sub(before)
		case guest.After(after):
			return guest.Sub(after)
		}
		return 0
	}
	right := func(when string) {
		t.Helper()
		until(t, time.Minute, "the right time "+when, func() bool { return off().Abs() < 2*time.Second })
		t.Logf("%s the clock is off by %v", when, off())
	}
	right("after the boot")
	t.Run("the VMM was stopped, as by a host that sleeps", func(t *testing.T) {
		pid := h.vmm(t, vm.Name)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer syscall.Kill(pid, syscall.SIGCONT)
		until(t, time.Minute, "the stop of every thread", func() bool { return allStopped(t, pid) })
		time.Sleep(20 * time.Second) // ten times the error that is allowed
		if !allStopped(t, pid) {
			t.Fatal("the VMM did not stay stopped")
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		right("after 20 seconds of a stopped VMM")
	})
	t.Run("no daemon was there", func(t *testing.T) {
		h.sh(t, vm.Name, "date -s @$(($(date +%s) - 3600)) >/dev/null")
		if got := off(); got > -59*time.Minute {
			t.Fatalf("the clock is off by %v after setting it back", got)
		}
		h.killDaemon(t)
		right("after the daemon's return")
	})
	t.Run("it keeps time while the guest works", func(t *testing.T) {
		h.sh(t, vm.Name, "timeout 15 sh -c 'while :; do :; done'; true")
		right("after 15s of work")
	})
}

func allStopped(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d: %v", pid, err)
	}
	for _, thread := range threads {
		if status, _ := os.ReadFile(thread); !bytes.Contains(status, []byte("State:\tT")) {
			return false
		}
	}
	return true
}
