package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/store"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
	"banger/internal/vmm/vmmtest"
)

// shortLifeEnv makes the test binary a daemon that is killed; its value is the
// JSON of shortLife.
const shortLifeEnv = "BANGER_TEST_SHORT_LIFE"

// shortLife is one operation of a process that is killed at one of its steps.
type shortLife struct {
	Dirs  config.Dirs
	Verb  string
	Step  int           // counted from 0; one too many means right after the last
	After time.Duration // since the step's begin

	Faults []vmmtest.Fault // of the VM

	Bundle    *bundle.Bundle
	Installed bundle.Installed
}

// liveShort does not return in a process that is to be killed.
func liveShort() {
	env, is := os.LookupEnv(shortLifeEnv)
	if !is {
		return
	}
	var life shortLife
	err := json.Unmarshal([]byte(env), &life)
	if err == nil {
		err = life.live(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func (l shortLife) live(ctx context.Context) error {
	host, err := hostIn(l.Dirs, vmmtest.NewFake(nil, l.Faults...))
	if err != nil {
		return err
	}
	if host.Store, err = store.Open(ctx, l.Dirs.DB()); err != nil {
		return err
	}
	host.Bundle, host.Installed = l.Bundle, l.Installed
	die := func() { syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	begun := 0
	host.Operations.Before = func(string) error {
		if begun == l.Step && l.After == 0 {
			die()
		} else if begun == l.Step {
			time.AfterFunc(l.After, die)
		}
		begun++
		return nil
	}
	v, err := Open(ctx, host)
	if err == nil {
		err = verbs[l.Verb].do(ctx, v)
	}
	if err == nil {
		die()
	}
	return err
}

// TestKilledAtEveryStep kills the process that is at work on a VM: before each
// step, amid each, and after the last. It finds the steps by itself. The next
// daemon must make of what is left a VM like any other.
func TestKilledAtEveryStep(t *testing.T) {
	for verb, v := range verbs {
		if v.dies == nil {
			continue
		}
		t.Run(verb, func(t *testing.T) {
			w := newWorld(t)
			t.Cleanup(w.endVMMs)
			looks := w.looks(v)
			var steps []string
			begins := []time.Time{}
			w.Operations.Before = func(step string) error {
				steps, begins = append(steps, step), append(begins, time.Now())
				return nil
			}
			if err := v.do(t.Context(), w.VMs); err != nil || len(steps) == 0 {
				t.Fatalf("%v, %d steps", err, len(steps))
			}
			w.Operations.Before = nil
			begins = append(begins, time.Now())
			for n, step := range append(steps, "the end") {
				w.killed(shortLife{Verb: verb, Step: n}, "before "+step, looks)
				w.hurried(shortLife{Verb: verb, Step: n}, "before "+step)
				if n < len(steps) {
					w.killed(shortLife{Verb: verb, Step: n, After: begins[n+1].Sub(begins[n]) / 2}, "amid "+step, looks)
				}
			}
		})
	}
}

// killed does it once and looks at what the next daemon makes of it.
func (w *world) killed(life shortLife, when string, looks map[banger.State]string) {
	w.t.Helper()
	v := verbs[life.Verb]
	w.outlive(life)
	var now banger.State
	w.until("killed "+when+": a VM like any other", func() bool {
		look := w.anonymous()
		for _, may := range v.dies {
			if v.same(settings.ReplaceAllString(look, ""), settings.ReplaceAllString(looks[may], "")) {
				now = may
			}
		}
		return now != ""
	})
	w.t.Logf("killed %s: %s", when, now)
	if vm, there := w.otter(); there && now == banger.Stopped && v.ending != anyEnding && vm.Ending != v.ending {
		w.t.Errorf("killed %s: ended by %q, want %q", when, vm.Ending, v.ending)
	}
	w.wholeDisks()
	w.bring(banger.Running)
	w.onlyOne("otter")
	if look, want := settings.ReplaceAllString(w.anonymous(), ""), settings.ReplaceAllString(looks[banger.Running], ""); look != want {
		w.t.Errorf("killed %s, and then started:\n%s\nwant:\n%s", when, look, want)
	}
}

// settings are what a set may have changed, whenever it was ended.
var settings = regexp.MustCompile(grown.String() + `|(memory|vCPUs) \S+`)

// wholeDisks checks that no disk is smaller than its record.
func (w *world) wholeDisks() {
	w.t.Helper()
	vm, there := w.otter()
	if !there {
		return // deleted
	}
	dir := w.Dirs.VM(vm.ID)
	for path, size := range map[string]banger.Size{dir.Overlay(): vm.Overlay, dir.Work(): vm.Disk} {
		if info, err := os.Stat(path); err != nil || banger.Size(info.Size()) < size {
			w.t.Errorf("%s has %d bytes, on record are %d: %v", path, info.Size(), size, err)
		}
	}
}

// hurried starts the VM before the next daemon can have ended what was begun.
func (w *world) hurried(life shortLife, when string) {
	w.t.Helper()
	w.outlive(life)
	w.bring(banger.Running)
	w.onlyOne("otter")
	w.again() // waits for what the daemon still had to do
	if vm := w.show1("otter"); !vm.State.Up() {
		w.t.Errorf("killed %s, and started at once: it is %s", when, vm.State)
	}
}

// outlive is a daemon's life that ends early, and the next daemon's begin.
func (w *world) outlive(life shortLife) {
	w.t.Helper()
	w.begin(verbs[life.Verb])
	life.Dirs, life.Bundle, life.Installed = w.Dirs, w.Bundle, w.Installed
	host := w.Env
	w.Close()
	w.Store.Close()
	if err := life.end(); err != nil {
		w.t.Fatalf("%s, step %d: %v", life.Verb, life.Step, err)
	}
	w.open(host)
}

// end runs the process to its end.
func (l shortLife) end() error {
	orders, err := json.Marshal(l)
	if err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), shortLifeEnv+"="+string(orders))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("it was not killed: %v: %s", err, out)
}

// bring gets the VM otter into a state by whatever it takes.
func (w *world) bring(to banger.State) {
	w.t.Helper()
	ctx := w.t.Context()
	vm, there := w.otter()
	var err error
	if there && vm.Name != "otter" {
		_, err = w.RenameVM(ctx, string(vm.ID), banger.RenameVM{Name: "otter"}, nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	switch to {
	case absent:
		if there {
			err = w.DeleteVM(ctx, "otter", banger.DeleteVM{Force: true}, nil)
		}
	case banger.Running:
		if there {
			_, err = w.StartVM(ctx, "otter", banger.StartVM{}, nil)
		} else {
			_, err = w.CreateVM(ctx, banger.CreateVM{Name: "otter"}, nil)
		}
	case banger.Stopped:
		w.bring(banger.Running) // so that a clean end is the last
		_, err = w.StopVM(ctx, "otter", banger.StopVM{}, nil)
	}
	if err != nil {
		w.t.Fatalf("bring it to %s: %v", to, err)
	}
}

// otter is the one VM there is, if there is one, whatever its name.
func (w *world) otter() (vm banger.VM, there bool) {
	w.t.Helper()
	all, err := w.ListVMs(w.t.Context())
	if err != nil || len(all) > 1 {
		w.t.Fatalf("there are %d VMs: %v", len(all), err)
	}
	if len(all) == 0 {
		return vm, false
	}
	return all[0], true
}

// anonymous is the world without the VM's ID, name and keys.
func (w *world) anonymous() string {
	look := w.String()
	if vm, there := w.otter(); there {
		look = strings.NewReplacer(string(vm.ID), "ID", vm.Name, "NAME").Replace(look)
	}
	before, _, _ := strings.Cut(look, " ssh-ed25519 ")
	_, after, _ := strings.Cut(look, " ssh-ed25519 ")
	_, after, _ = strings.Cut(after, "\n")
	return before + "\n" + after
}

// onlyOne checks that the VMM and nobody else has the VM's disks. What another
// test has just forked has copies of our descriptors for a moment more, until the
// kernel has executed it.
func (w *world) onlyOne(name string) {
	w.t.Helper()
	vm := w.show1(name)
	w.until(fmt.Sprintf("only the VMM, process %d, has the VM's disks", vm.PID), func() bool {
		openers := w.openers(config.VMDir(vm.Dir))
		return len(openers) == 1 && openers[0] == fmt.Sprint(vm.PID)
	})
}

// openers are the processes that have a VM's lock or disks open.
func (w *world) openers(dir config.VMDir) []string {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		w.t.Fatal(err)
	}
	var openers []string
	for _, link := range links {
		target, _ := os.Readlink(link)
		if pid := strings.Split(link, "/")[2]; slices.Contains([]string{dir.Lock(), dir.Overlay(), dir.Work()}, target) {
			openers = append(openers, pid)
		}
	}
	return slices.Compact(openers)
}

// endVMMs ends those that this process did not launch.
func (w *world) endVMMs() {
	locks, _ := filepath.Glob(w.Dirs.VM("*").Lock())
	for _, lock := range locks {
		holder, err := process.OpenHolder(lock)
		if errors.Is(err, vmm.ErrGone) {
			continue
		}
		if err == nil {
			err = holder.Kill()
		}
		if err != nil {
			w.t.Error(err)
			continue
		}
		<-holder.Done()
		holder.Close()
	}
}
