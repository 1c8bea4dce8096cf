package linux

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// open opens a file to lock; the test's end closes it.
func open(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func assertLocked(t *testing.T, path string, want bool) {
	t.Helper()
	if got, err := Locked(path); err != nil || got != want {
		t.Errorf("locked: %v, %v, want %v", got, err, want)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	assertLocked(t, path, false)
	first, second := open(t, path), open(t, path)
	assertLocked(t, path, false)
	if err := errors.Join(TryLock(first), TryLock(first)); err != nil { // again is the same
		t.Fatal(err)
	}
	assertLocked(t, path, true)
	if err := TryLock(second); !errors.Is(err, ErrLocked) {
		t.Errorf("the second got it, too: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := WaitLock(ctx, open(t, path)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited: %v", err)
	}
	if err := AwaitFree(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("free: %v", err)
	}
	if _, err := Holder(path); !errors.Is(err, ErrFree) { // this process does not count
		t.Errorf("holder: %v", err)
	}
	first.Close()
	if err := errors.Join(AwaitFree(t.Context(), path), AwaitFree(t.Context(), path+".none"), WaitLock(t.Context(), second)); err != nil {
		t.Error(err)
	}
}

// A child that inherits the file has the lock after its parent has closed it. One
// that only has the same file open, for reading or writing, does not.
func TestHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock := open(t, path)
	if err := TryLock(lock); err != nil {
		t.Fatal(err)
	}
	start := func(file *os.File) int {
		cmd := exec.Command("sleep", "60")
		cmd.ExtraFiles = []*os.File{file}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd.Process.Pid
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	start(reader)
	start(open(t, path))
	want := start(lock)
	lock.Close()
	assertLocked(t, path, true)
	if got, err := Holder(path); got != want || err != nil {
		t.Errorf("holder %d, %v, want %d", got, err, want)
	}
}

// Who asks for a lock or waits for its end makes nobody fail who takes it.
func TestAskingTakesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	ctx, cancel := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	for range 2 {
		others.Go(func() {
			for ctx.Err() == nil {
				if _, err := Locked(path); err != nil {
					t.Error(err)
				}
				if err := AwaitFree(ctx, path); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	failed := 0
	for range 20_000 {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := TryLock(file); err != nil {
			failed++
		}
		file.Close()
	}
	if failed > 0 {
		t.Errorf("%d failed to lock what nobody else locks", failed)
	}
}

func TestWaitFlock(t *testing.T) {
	dir, err1 := os.Open(t.TempDir())
	again, err2 := os.Open(dir.Name())
	if err := errors.Join(err1, err2, WaitFlock(t.Context(), dir)); err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := WaitFlock(ctx, again); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	dir.Close()
}
