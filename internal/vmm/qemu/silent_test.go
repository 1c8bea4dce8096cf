package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"banger"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// silent starts a QEMU that never says a word: who connects to its sockets waits.
func silent(t *testing.T) (*Driver, vmm.Spec, *process.Process, *process.Dir) {
	t.Helper()
	driver, spec := asPlainUser(script(t, "exec sleep 60")), plainSpec(t)
	program, err := driver.inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := process.OpenDir(spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	proc, _, err := driver.fork(dir, program, spec)
	spec.Lock.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		proc.End()
		if err := errors.Join(dir.Remove(monitorSocket, controlSocket, streamsSocket), dir.Close()); err != nil {
			t.Error(err)
		}
		assertLeft(t, spec)
	})
	return driver, spec, proc, dir
}

// A QEMU that is stopped, or has somebody else at its monitor, is let be.
func TestAdoptOfASilentQEMU(t *testing.T) {
	driver, spec, proc, _ := silent(t)
	defer func(usual time.Duration) { attachTime = usual }(attachTime)
	attachTime = 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := driver.Adopt(ctx, spec.Dir)
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		t.Errorf("got %v, %v", err, ctx.Err())
	}
	select {
	case <-proc.Done():
		t.Error("it was ended")
	default:
	}
}

// Who only reads a VM's lock is no QEMU.
func TestAdoptOfABystander(t *testing.T) {
	driver, spec := asPlainUser(script(t, "")), plainSpec(t)
	bystander := exec.Command("sleep", "60")
	bystander.Stdin, _ = os.Open(spec.Lock.Name())
	if err := errors.Join(spec.Lock.Close(), bystander.Start()); err != nil {
		t.Fatal(err)
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()
	if _, err := driver.Adopt(t.Context(), spec.Dir); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("got %v", err)
	}
}

// What is wrong with a QEMU that lives is told at once, not when the client leaves.
func TestExplainOfAQEMUThatLives(t *testing.T) {
	_, spec, proc, dir := silent(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := explain(ctx, errors.New("unexpected greeting"), proc, dir, spec, 0)
	if banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), "unexpected greeting") || banger.FixOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

// A command has a bound of its own: a daemon's context has none.
func TestMonitorThatFallsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, qemu := net.Pipe()
		defer qemu.Close()
		go func() {
			fmt.Fprintln(qemu, greeting)
			in := bufio.NewScanner(qemu)
			in.Scan()
			fmt.Fprintln(qemu, `{"return": {}, "id": 1}`)
			in.Scan()
		}()
		m, err := openMonitor(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		defer m.close()
		for _, command := range []string{"query-status", "stop"} { // the second is not even taken
			if err := m.do(t.Context(), command, nil); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v", command, err)
			}
		}
	})
}
