package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
)

// bundled gives the world a bundle of which nothing is installed but what
// programs need.
func (w *world) bundled() *bundle.Bundle {
	w.t.Helper()
	dir := config.BundleDir(filepath.Join(w.t.TempDir(), "runtime"))
	from := w.Dirs.Kernel(w.Installed.Kernel.ID)
	boot, err := os.ReadFile(from.BootModules())
	kernel := dir.Kernel()
	err = errors.Join(err, os.MkdirAll(string(kernel), 0o700))
	for path, text := range map[string]string{
		kernel.Vmlinux(): "vmlinux", kernel.Modules(): "modules", kernel.BootModules(): string(boot), kernel.Info(): "{}", dir.Rootfs(): "rootfs", dir.Agent(): "agent",
	} {
		err = errors.Join(err, os.WriteFile(path, []byte(text), 0o400))
	}
	m := bundle.Manifest{Version: bundle.Version}
	m.Kernel, m.Image = bundle.Kernel{Release: "6.13"}, bundle.Image{Name: "docker", File: filepath.Base(dir.Rootfs())}
	var errK, errI error
	m.Kernel.Digest, _, errK = bundle.KernelDigest(w.t.Context(), kernel)
	m.Image.Digest, _, errI = bundle.FileDigest(w.t.Context(), dir.Rootfs())
	w.Bundle = &bundle.Bundle{Dir: dir, Manifest: m}
	var errP error
	w.Installed, errP = bundle.Install(w.t.Context(), w.Bundle, w.Dirs)
	other := banger.Image{Name: "other", ID: banger.Digest("sha256:" + strings.Repeat("1", 64))}
	err = errors.Join(err, errK, errI, errP, w.Store.PutImage(w.t.Context(), other), w.Store.PutImage(w.t.Context(), w.Installed.Image))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.Bundle
}

// TestTheFirstVMBringsWhatItNeeds and nothing else, in steps of its own.
func TestTheFirstVMBringsWhatItNeeds(t *testing.T) {
	w := newWorld(t)
	w.bundled()
	for _, c := range []struct {
		image string
		want  []string
	}{{"other", []string{"install kernel"}}, {"other", nil}, {"docker", []string{"install image"}}, {"", nil}} {
		var steps []string
		_, err := w.CreateVM(t.Context(), banger.CreateVM{Image: c.image, NoStart: true}, func(e banger.Step) {
			if e.Done && strings.HasPrefix(e.Step, "install") {
				steps = append(steps, e.Step)
			}
		})
		if err != nil || !slices.Equal(steps, c.want) {
			t.Errorf("%q: %v, steps %q, want %q", c.image, err, steps, c.want)
		}
	}
	w.disk.Check(w.Dirs.Kernels())
	w.disk.Check(w.Dirs.Images())
}

// TestFirstVMsAtOnce: one brings what all of them need, and the others wait.
func TestFirstVMsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.bundled()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	w.installing <- struct{}{}
	for range 64 { // one that need not wait is as likely to go on as to be cancelled
		err := w.install(ended, func(context.Context, config.Dirs) error { return errors.New("two at once") })
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	<-w.installing
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if _, err := w.CreateVM(t.Context(), banger.CreateVM{Name: fmt.Sprint("vm", i), NoStart: true}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestABundleThatCannotBring: the create fails, says what to do, and leaves nothing.
func TestABundleThatCannotBring(t *testing.T) {
	w := newWorld(t)
	b := w.bundled()
	empty := w.String()
	create := func(ctx context.Context) error {
		_, err := w.CreateVM(ctx, banger.CreateVM{Name: "otter"}, nil)
		if now := w.String(); now != empty {
			t.Errorf("left behind:\n%s\nwas:\n%s", now, empty)
		}
		return err
	}
	fails := func(err error, text, fix string) {
		t.Helper()
		if banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), text) || banger.FixOf(err) != fix {
			t.Errorf("got %v (%s), fix %q; want %s, %s", err, banger.KindOf(err), banger.FixOf(err), text, fix)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.installing <- struct{}{} // another create is at work
	cancel()
	if err := create(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	<-w.installing
	if err := os.Remove(b.Dir.Kernel().Vmlinux()); err != nil {
		t.Fatal(err)
	}
	fails(create(t.Context()), "runtime/kernel/vmlinux", "make runtime, then: banger daemon stop")
	full := fmt.Errorf("copy: %w", syscall.ENOSPC)
	fails(w.install(t.Context(), func(context.Context, config.Dirs) error { return full }), "no space", w.freeSpace())
	w.Bundle, w.Installed, w.Missing = nil, bundle.Installed{Agent: w.Installed.Agent}, full
	err := w.Store.PutKernel(t.Context(), banger.Kernel{Name: "6.13", ID: b.Kernel.Digest})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.CreateVM(t.Context(), banger.CreateVM{Name: "otter", Image: "docker"}, nil)
	fails(err, `create VM "otter": the kernel "6.13" was never installed from a runtime bundle: copy: no space`, w.freeSpace()+", then: banger daemon stop")
}
