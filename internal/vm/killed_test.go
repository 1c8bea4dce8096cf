package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/store"
	"banger/internal/vmm"
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
}

// dieIn are the verbs and the state a VM has before them.
var dieIn = map[string]struct {
	from   banger.State
	do     func(context.Context, *VMs) error
	may    []banger.State // become by it
	ending banger.Ending  // of a VM that is stopped then
}{
	"create": {absent, func(ctx context.Context, v *VMs) error {
		_, err := v.CreateVM(ctx, banger.CreateVM{Name: "otter"}, nil)
		return err
	}, []banger.State{absent, banger.Stopped, banger.Running}, banger.EndedNever},
	"start": {banger.Stopped, func(ctx context.Context, v *VMs) error {
		_, err := v.StartVM(ctx, "otter", banger.StartVM{}, nil)
		return err
	}, []banger.State{banger.Stopped, banger.Running}, banger.EndedPoweroff},
	"stop": {banger.Running, func(ctx context.Context, v *VMs) error {
		_, err := v.StopVM(ctx, "otter", banger.StopVM{}, nil)
		return err
	}, []banger.State{banger.Stopped, banger.Running}, banger.EndedPoweroff},
	"stop by force": {banger.Running, func(ctx context.Context, v *VMs) error {
		_, err := v.StopVM(ctx, "otter", banger.StopVM{Force: true}, nil)
		return err
	}, []banger.State{banger.Stopped, banger.Running}, anyEnding},
	"restart": {banger.Running, func(ctx context.Context, v *VMs) error {
		_, err := v.RestartVM(ctx, "otter", banger.StopVM{}, nil)
		return err
	}, []banger.State{banger.Stopped, banger.Running}, banger.EndedPoweroff},
	"set":               {banger.Stopped, setMore(false), []banger.State{banger.Stopped}, banger.EndedPoweroff},
	"set while it runs": {banger.Running, setMore(false), []banger.State{banger.Running}, anyEnding},
	"set by a restart":  {banger.Running, setMore(true), []banger.State{banger.Stopped, banger.Running}, banger.EndedPoweroff},
	"delete": {banger.Stopped, func(ctx context.Context, v *VMs) error {
		return v.DeleteVM(ctx, "otter", banger.DeleteVM{}, nil)
	}, []banger.State{banger.Stopped, absent}, banger.EndedPoweroff},
	"delete by force": {banger.Running, func(ctx context.Context, v *VMs) error {
		return v.DeleteVM(ctx, "otter", banger.DeleteVM{Force: true}, nil)
	}, []banger.State{banger.Running, banger.Stopped, absent}, anyEnding},
	"the guest's reboot": {banger.Running, reboot, []banger.State{banger.Running}, anyEnding},
}

// setMore gives the VM larger disks and, if it may be restarted, other memory.
func setMore(restart bool) func(context.Context, *VMs) error {
	return func(ctx context.Context, v *VMs) error {
		vm, err := v.ShowVM(ctx, "otter")
		if err != nil {
			return err
		}
		opts := banger.SetVM{Disk: vm.Disk + 8*banger.MiB, Overlay: vm.Overlay + 8*banger.MiB, Apply: restart}
		if restart {
			opts.Memory = 500*banger.MiB - vm.Memory
		}
		_, err = v.SetVM(ctx, "otter", opts, nil)
		return err
	}
}

// reboot makes the guest do so, and waits until it is back.
func reboot(ctx context.Context, v *VMs) error {
	conn, err := v.DialVM(ctx, "otter", vmmtest.PortAct)
	if err != nil {
		return err
	}
	defer conn.Close()
	was, err := v.ShowVM(ctx, "otter")
	if err != nil {
		return err
	}
	fmt.Fprintln(conn, "reboot")
	for {
		now, err := v.ShowVM(ctx, "otter")
		if err == nil && now.State == banger.Stopped && now.EndingBy != "" {
			err = errors.New(now.EndingBy)
		}
		if err != nil || now.State == banger.Running && now.PID != was.PID {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

const (
	absent    banger.State  = "absent"
	anyEnding banger.Ending = "any"
)

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
	host, err := hostIn(l.Dirs, vmmtest.NewFake(nil))
	if err != nil {
		return err
	}
	if host.Store, err = store.Open(ctx, l.Dirs.DB()); err != nil {
		return err
	}
	die := func() { syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	begun := 0
	host.Before = func(string) error {
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
		err = dieIn[l.Verb].do(ctx, v)
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
	for verb, v := range dieIn {
		t.Run(verb, func(t *testing.T) {
			w := newWorld(t)
			t.Cleanup(w.endVMMs)
			looks := map[banger.State]string{}
			for _, state := range []banger.State{banger.Stopped, banger.Running, absent} {
				w.bring(state)
				looks[state] = w.anonymous()
			}
			w.bring(v.from)
			var steps []string
			begins := []time.Time{}
			w.Before = func(step string) error {
				steps, begins = append(steps, step), append(begins, time.Now())
				return nil
			}
			if err := v.do(t.Context(), w.VMs); err != nil || len(steps) == 0 {
				t.Fatalf("%v, %d steps", err, len(steps))
			}
			w.Before = nil
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
	v := dieIn[life.Verb]
	w.outlive(life)
	var now banger.State
	w.until("killed "+when+": a VM like any other", func() bool {
		look := w.anonymous()
		for _, may := range v.may {
			if look == looks[may] {
				now = may
			}
		}
		return now != ""
	})
	w.t.Logf("killed %s: %s", when, now)
	if now == banger.Stopped && v.ending != anyEnding && w.show1("otter").Ending != v.ending {
		w.t.Errorf("killed %s: ended by %q, want %q", when, w.show1("otter").Ending, v.ending)
	}
	w.wholeDisks()
	w.bring(banger.Running)
	w.onlyOne("otter")
}

// wholeDisks checks that no disk is smaller than its record.
func (w *world) wholeDisks() {
	w.t.Helper()
	vm, err := w.ShowVM(w.t.Context(), "otter")
	if err != nil {
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
	if vm := w.show1("otter"); vm.State != banger.Running {
		w.t.Errorf("killed %s, and started at once: it is %s", when, vm.State)
	}
}

// outlive is a daemon's life that ends early, and the next daemon's begin.
func (w *world) outlive(life shortLife) {
	w.t.Helper()
	w.bring(dieIn[life.Verb].from)
	life.Dirs = w.Dirs
	host := w.Host
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
	_, err := w.ShowVM(ctx, "otter")
	there := err == nil
	switch to {
	case absent:
		if err = nil; there {
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

// anonymous is the world without the VM's ID and keys.
func (w *world) anonymous() string {
	look := w.String()
	if vm, err := w.ShowVM(w.t.Context(), "otter"); err == nil {
		look = strings.ReplaceAll(look, string(vm.ID), "ID")
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
		holder, err := vmm.OpenHolder(lock)
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
