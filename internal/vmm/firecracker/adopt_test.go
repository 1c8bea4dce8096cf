package firecracker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// forked starts a Firecracker as a daemon does that dies before it configures it.
func forked(t *testing.T, driver *Driver, spec vmm.Spec) *process.Dir {
	t.Helper()
	program, err := driver.inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := process.OpenDir(spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := fork(dir, program, spec, process.Account{})
	spec.Lock.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		proc.End()
		dir.Close()
	})
	return dir
}

// A VMM that was started and never told what to be is ended: its daemon died.
func TestAdoptUnconfigured(t *testing.T) {
	driver, spec := install(t, orders{}), newSpec(t)
	forked(t, driver, spec)
	if _, err := driver.Adopt(t.Context(), spec.Dir); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("got %v", err)
	}
	if locked, err := vmm.Locked(filepath.Join(spec.Dir, "lock")); err != nil || locked {
		t.Errorf("locked %v, %v", locked, err)
	}
}

// A Firecracker that is stopped takes connections and does not answer: it is let be.
func TestAdoptOfASilentFirecracker(t *testing.T) {
	driver, spec := install(t, orders{Silent: true}), newSpec(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	serves, err := forked(t, driver, spec).Await(ctx, apiSocket)
	if err != nil {
		t.Fatal(err)
	}
	serves.Close()
	defer func(usual time.Duration) { attachTime = usual }(attachTime)
	attachTime = 20 * time.Millisecond
	if _, err := driver.Adopt(ctx, spec.Dir); err == nil || errors.Is(err, vmm.ErrGone) || ctx.Err() != nil {
		t.Errorf("got %v, %v", err, ctx.Err())
	}
	if locked, err := vmm.Locked(filepath.Join(spec.Dir, "lock")); err != nil || !locked {
		t.Errorf("locked %v, %v", locked, err)
	}
	open, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range open {
		if file, err := os.Readlink(fd); err == nil && file == filepath.Join(spec.Dir, "lock") {
			t.Errorf("%s is still open", file)
		}
	}
}
