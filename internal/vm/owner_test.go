package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/store"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// tell has the guest send an event, and returns once it has.
func (w *world) tell(name string, event string) {
	w.t.Helper()
	conn, err := w.DialVM(w.t.Context(), name, vmmtest.PortTell)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, event)
	answer := make([]byte, 5)
	if _, err := conn.Read(answer); err != nil {
		w.t.Fatal(err)
	}
}

// history is what a reader of the events sees of each VM: its states, each once.
type history struct {
	mu     sync.Mutex
	states map[string][]banger.State
	steps  []string
	cancel context.CancelFunc
	ended  chan struct{}
}

func (w *world) history() *history {
	h := &history{states: map[string][]banger.State{}, ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(w.t.Context())
	h.cancel = cancel
	ready := make(chan struct{})
	go func() {
		defer close(h.ended)
		for e := range w.Events.Read(ctx) {
			if e.Kind == banger.EventReady {
				close(ready)
			}
			h.add(e)
		}
	}()
	<-ready
	w.t.Cleanup(h.end)
	return h
}

func (h *history) add(e banger.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case e.VM != nil:
		states := h.states[e.VM.Name]
		if len(states) == 0 || states[len(states)-1] != e.VM.State {
			h.states[e.VM.Name] = append(states, e.VM.State)
		}
	case e.Operation != nil && e.Operation.Ended:
		h.steps = append(h.steps, e.Operation.Name+" "+string(e.Operation.Verb)+" ended")
	case e.Operation != nil && e.Operation.Step.Done:
		h.steps = append(h.steps, e.Operation.Name+" "+e.Operation.Step.Step)
	}
}

func (h *history) of(name string) []banger.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.states[name])
}

func (h *history) end() { h.cancel(); <-h.ended }

// TestEventsTellEveryChange: of two VMs at once, in order, also what a guest does
// by itself.
func TestEventsTellEveryChange(t *testing.T) {
	w := newWorld(t)
	h := w.history()
	var all sync.WaitGroup
	for _, name := range []string{"otter", "vole"} {
		all.Go(func() {
			w.create(name)
			w.act(name, "reboot")
			w.until("the reboot", func() bool { return len(h.of(name)) >= 7 && w.show1(name).State == banger.Running })
			_, err := w.StopVM(t.Context(), name, banger.StopVM{}, nil)
			if err := errors.Join(err, w.DeleteVM(t.Context(), name, banger.DeleteVM{}, nil)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	want := []banger.State{banger.Creating, banger.Stopped, banger.Starting, banger.Booting, banger.Running, // create
		banger.Stopped, banger.Starting, banger.Booting, banger.Running, // the guest's reboot
		banger.Stopping, banger.Stopped, banger.Deleting, banger.Gone}
	for _, name := range []string{"otter", "vole"} {
		w.until("the last event", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return slices.Contains(h.steps, name+" delete ended") })
		if got := h.of(name); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		var steps []string
		for _, step := range h.steps {
			if rest, ok := strings.CutPrefix(step, name+" "); ok {
				steps = append(steps, rest)
			}
		}
		start := []string{"lock", "check disks", "connect the network", "configure", "launch", "boot"}
		wantSteps := slices.Concat([]string{"reserve the name", "create disks", "record"}, start, []string{"create ended", "starting services", "wait for ended"},
			start, []string{"reboot ended", "ask the guest to shut down", "shutting down", "stop ended", "mark", "remove disks", "delete ended"})
		if !slices.Equal(steps, wantSteps) {
			t.Errorf("%s: got %q, want %q", name, steps, wantSteps)
		}
	}
}

// TestStartOfADyingVM: a VM whose VMM has been killed, or whose guest goes down, is
// not taken for one that runs, whatever is remembered of it.
func TestStartOfADyingVM(t *testing.T) {
	w := newWorld(t)
	was := w.create("otter")
	for name, end := range map[string]func(banger.VM){
		"killed":       func(vm banger.VM) { w.signal(vm, syscall.SIGKILL) },
		"switched off": func(banger.VM) { w.act("otter", "poweroff") },
		"going down": func(banger.VM) {
			w.tell("otter", `{"kind":"init","init":"shutdown"}`)
			w.until("the shutdown", func() bool { return w.show1("otter").State == banger.Stopping })
			if _, err := w.DialVM(t.Context(), "otter", 22); banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "while it is stopping") {
				t.Errorf("reached: %v", err)
			}
			time.AfterFunc(100*time.Millisecond, func() { w.signal(was, syscall.SIGKILL) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			end(was)
			now, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil)
			if err != nil || !now.State.Up() || now.PID == was.PID {
				t.Errorf("%v, was process %d, is %s by %d", err, was.PID, now.State, now.PID)
			}
			was = now
			if vm := w.show1("otter"); vm.PID != now.PID || !vm.State.Up() {
				t.Errorf("%+v", vm)
			}
		})
	}
}

// TestStartAsksTheGuest: systemd does not announce a shutdown that a program in the
// guest asked for.
func TestStartAsksTheGuest(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.EndsInSecret)
	was := w.create("otter")
	w.fake.SetFaults()
	now, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil)
	if err != nil || !now.State.Up() || now.PID == was.PID || now.Ending != banger.EndedPoweroff {
		t.Errorf("%v, was process %d: %+v", err, was.PID, now)
	}
}

// TestByeBeginsTheEnd: a guest that has said bye cannot be reached any more.
func TestByeBeginsTheEnd(t *testing.T) {
	w := newWorld(t)
	nonce := w.owner(w.create("otter").ID).running().boot.Nonce
	w.tell("otter", `{"kind":"bye","verb":"poweroff","nonce":"`+nonce+`"}`)
	w.until("the end's begin", func() bool { return w.show1("otter").State == banger.Stopping })
}

// TestDyingIsSeenBeforeTheEnd: a process with much memory takes a while to end.
func TestDying(t *testing.T) {
	for stat, want := range map[string]bool{
		"7 (a b) S 1 7 7 0 -1 4194304 1": false, "7 (a) R) S 1 7 7 0 -1 4194308 1": true, "7 (a) Z 1 7 7 0 -1 4194304 1": true, "": true,
	} {
		if exiting([]byte(stat)) != want {
			t.Errorf("%q: exiting is %v", stat, !want)
		}
	}
	for status, want := range map[string]bool{"Name:\ta\nSigPnd:\t0000000000000100\n": true, "ShdPnd:\t0000000000000100\n": true, "SigPnd:\t0000000000004000\nShdPnd:\t0\n": false} {
		if killed([]byte(status)) != want {
			t.Errorf("%q: killed is %v", status, !want)
		}
	}
}

// TestStoppingLastsWithoutItsClient: a stop whose client is gone continues, and a start
// waits for its end.
func TestStoppingLastsWithoutItsClient(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.IgnoresStop)
	was := w.create("otter")
	w.fake.SetFaults()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.StopVM(ctx, "otter", banger.StopVM{}, func(s banger.Step) {
		if s.Step == "shutting down" {
			cancel()
		}
	})
	if vm := w.show1("otter"); banger.KindOf(err) != banger.Canceled || vm.State != banger.Stopping {
		t.Fatalf("%v; it is %s", err, vm.State)
	}
	steps := ""
	time.AfterFunc(50*time.Millisecond, func() { w.signal(was, syscall.SIGKILL) })
	now, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, func(s banger.Step) { steps += s.Step + "," })
	if err != nil || now.PID == was.PID || !strings.HasPrefix(steps, "shutting down,") {
		t.Errorf("%v, %+v, steps %s", err, now, steps)
	}
}

// TestBooting: it is shown until the init has started everything, and again after a
// soft reboot. Services that fail fail the wait for them.
func TestBooting(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.SlowInit)
	vm, err := w.CreateVM(t.Context(), banger.CreateVM{Name: "otter"}, nil)
	if err != nil || vm.State != banger.Booting {
		t.Fatalf("%v, %s", err, vm.State)
	}
	h := w.history()
	for _, init := range []wire.Init{wire.InitHears, wire.InitUp, wire.InitStopping, wire.InitHears, wire.InitUp} {
		w.tell1("otter", init)
	}
	want := []banger.State{banger.Booting, banger.Running, banger.Stopping, banger.Booting, banger.Running}
	w.until("the soft reboot", func() bool { return slices.Equal(h.of("otter"), want) })
	w.again() // another daemon asks the guest
	w.until("running", func() bool { return w.show1("otter").State == banger.Running })
	w.tell("otter", `{"kind":"init","init":"emergency","why":"nope.mount failed\u001b[2J"}`)
	w.until("the problem", func() bool { return len(w.show1("otter").Problems) == 1 })
	_, err = w.WaitVM(t.Context(), "otter", banger.WaitVM{For: banger.BootUp}, nil)
	if err == nil || !strings.Contains(err.Error(), "emergency mode: nope.mount failed[2J") || banger.FixOf(err) != "banger vm ssh otter" {
		t.Errorf("%v, fix %q", err, banger.FixOf(err))
	}
	if p := w.show1("otter").Problems; p[0].Kind != banger.ProblemBoot {
		t.Errorf("%+v", p)
	}
}

// tell1 tells of the init. It works for a guest that cannot be reached, too.
func (w *world) tell1(name string, init wire.Init) {
	w.t.Helper()
	o, err := w.find(name)
	if err != nil {
		w.t.Fatal(err)
	}
	r := o.running()
	conn, err := r.machine.Dial(w.t.Context(), vmmtest.PortTell)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "{\"kind\":\"init\",\"init\":%q}\n", init)
	conn.Read(make([]byte, 5))
	w.until(string(init), func() bool { o.mu.Lock(); defer o.mu.Unlock(); return r.hello.Init == init })
}

// TestPaused: a guest that the VMM has paused, since the host is full, is shown with
// the reason, and nobody waits for it to answer.
func TestPaused(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	h := w.history()
	full := vmm.DiskError{Role: vmm.Work, Errno: syscall.ENOSPC, Paused: true}
	if err := vmmtest.FailDisks(t.Context(), vm.Dir, full); err != nil {
		t.Fatal(err)
	}
	w.until("the problem", func() bool { return len(w.show1("otter").Problems) == 1 })
	p := w.show1("otter").Problems[0]
	if p.Kind != banger.ProblemPaused || p.Disk != "work" || !strings.Contains(p.Text, "no space on ") || !strings.HasPrefix(p.Fix, "free space on ") {
		t.Errorf("%+v", p)
	}
	began := time.Now()
	_, dial := w.DialVM(t.Context(), "otter", 22)
	_, stop := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil)
	for verb, err := range map[string]error{"reach": dial, "stop": stop} {
		if banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), "no space on ") || banger.FixOf(err) == "" {
			t.Errorf("%s: %v, fix %q", verb, err, banger.FixOf(err))
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("they took %v", took)
	}
	if vm := w.show1("otter"); vm.State != banger.Running {
		t.Errorf("it is %s", vm.State)
	}
	if err := vmmtest.FailDisks(t.Context(), vm.Dir); err != nil {
		t.Fatal(err)
	}
	w.until("the end of the problem", func() bool { return len(w.show1("otter").Problems) == 0 })
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
		t.Error(err)
	}
	h.end()
}

// TestDiskErrorsAreCheckedBeforeAStart: a guest's disks with errors are told of, do
// not end cleanly, and are checked before they are mounted again.
func TestDiskErrorsAreCheckedBeforeAStart(t *testing.T) {
	if _, err := exec.LookPath("debugfs"); err != nil {
		t.Skip("debugfs is missing: apt-get install e2fsprogs")
	}
	w := newWorld(t)
	vm := w.create("otter")
	w.tell("otter", `{"kind":"disks","disks":[{"label":"banger-work","errors":2,"why":"checksum"}]}`)
	w.until("the problem", func() bool { return len(w.show1("otter").Problems) == 1 })
	if p := w.show1("otter").Problems[0]; p.Kind != banger.ProblemDisk || p.Disk != "work" || !strings.Contains(p.Text, "2 errors: checksum") {
		t.Errorf("%+v", p)
	}
	work := w.Dirs.VM(vm.ID).Work()
	if out, err := exec.Command("debugfs", "-w", "-R", "set_super_value error_count 2", work).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	stopped, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil)
	if err != nil || stopped.Ending != banger.EndedUnclean || !strings.Contains(stopped.EndingBy, "work disk has 2 errors") {
		t.Errorf("%v, ended by %q %q", err, stopped.Ending, stopped.EndingBy)
	}
	note := ""
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, func(s banger.Step) { note += s.Note }); err != nil || !strings.Contains(note, "2 errors; it is checked") {
		t.Errorf("%v, note %q", err, note)
	}
	if _, err := w.StopVM(t.Context(), "otter", banger.StopVM{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(work, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "work.ext4") {
		t.Errorf("an empty disk: %v", err)
	}
}

// TestFind: by name, by ID, and by a prefix of the ID that is no other VM's.
func TestFind(t *testing.T) {
	v := &VMs{owners: map[banger.VMID]*owner{}}
	for id, name := range map[banger.VMID]string{"0a1b2c3d4e5f": "otter", "0a1bffffffff": "vole", "ffffffffffff": "0a1b2c3d4e5f"} {
		v.own(store.VM{ID: id, Name: name}, banger.Stopped)
	}
	for ref, want := range map[string]string{"otter": "otter", "0a1bf": "vole", "0a1b2c3d4e5f": "0a1b2c3d4e5f", "0a1b2c": "otter", "ffffffffffff": "0a1b2c3d4e5f"} {
		if o, err := v.find(ref); err != nil || o.name() != want {
			t.Errorf("%q: %v", ref, err)
		}
	}
	for ref, kind := range map[string]banger.Kind{"": banger.NotFound, "ot": banger.NotFound, "ff": banger.NotFound, "ffff": banger.NotFound, "0a1": banger.Conflict, "0a1x": banger.NotFound} {
		if _, err := v.find(ref); banger.KindOf(err) != kind || banger.FixOf(err) == "" {
			t.Errorf("%q: %v", ref, err)
		}
	}
}
