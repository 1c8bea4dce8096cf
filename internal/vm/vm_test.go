package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable/durabletest"
	"banger/internal/event"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/initrd"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// onDisk is where temporary files are otherwise.
var onDisk = os.TempDir()

func TestMain(m *testing.M) {
	vmmtest.RunVMM(vmmtest.Port{Number: wire.PortSSH, Serve: noteLogin})
	liveShort()
	// What is on the disk is asked of a model: waiting for a real one shows nothing.
	if free, err := disk.Free("/dev/shm"); err == nil && free > banger.GiB {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}

// world is a host with a fake driver: everything else is real.
type world struct {
	*VMs
	fake *vmmtest.Fake
	disk *durabletest.Disk
	t    *testing.T
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, slog.New(slog.DiscardHandler))
}

func newWorldWith(t *testing.T, log *slog.Logger) *world {
	t.Helper()
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		t.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	root := t.TempDir()
	w := &world{fake: vmmtest.NewFake(t), t: t}
	host, err := hostIn(config.Dirs{Config: root + "/config", State: root + "/state", Cache: root + "/cache", Runtime: root + "/run"}, w.fake)
	if err != nil {
		t.Fatal(err)
	}
	host.Log = log
	install(t, host)
	w.disk = durabletest.New(t, root)
	w.open(host)
	t.Cleanup(func() {
		w.Close()
		w.Store.Close()
	})
	return w
}

// hostIn is a host without its store.
func hostIn(dirs config.Dirs, driver vmm.Driver) (Env, error) {
	settings, err := config.Load(dirs, func(string) string { return "" })
	settings.Network = "none"
	settings.Disk, settings.Overlay, settings.Memory = 64*banger.MiB, 64*banger.MiB, 256*banger.MiB
	digest := func(c string) banger.Digest { return banger.Digest("sha256:" + strings.Repeat(c, 64)) }
	in := bundle.Installed{Image: banger.Image{Name: "docker", ID: digest("1")}, Kernel: banger.Kernel{Name: "6.12", ID: digest("2")}, Agent: digest("3")}
	hub, log := event.NewHub(), slog.New(slog.DiscardHandler)
	operations := &operation.Runner{Log: log, Publish: func(o banger.Operation) { hub.Publish(banger.Event{Kind: banger.EventOperation, Operation: &o}) }}
	return Env{Dirs: dirs, Config: settings, Drivers: vmm.Drivers{driver}, Installed: in, Run: hostcmd.Host{},
		Events: hub, Operations: operations, Network: NoNetwork{errors.New("not in tests")}, Log: log, Program: "test"}, err
}

func (w *world) open(host Env) {
	w.t.Helper()
	var err error
	if host.Store, err = store.Open(w.t.Context(), host.Dirs.DB()); err != nil {
		w.t.Fatal(err)
	}
	if host.Bundle != nil {
		if _, err := bundle.Install(w.t.Context(), host.Bundle, host.Dirs); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := host.Store.PutImage(w.t.Context(), host.Installed.Image); err != nil {
		w.t.Fatal(err)
	}
	if w.VMs, err = Open(w.t.Context(), host); err != nil {
		w.t.Fatal(err)
	}
}

// again is what a daemon does that starts after this one was killed: nothing
// that this one had in memory is left to it.
func (w *world) again() {
	w.t.Helper()
	host := w.Env
	host.Operations = &operation.Runner{Log: host.Log}
	w.Close()
	w.Store.Close()
	w.open(host)
}

func install(t *testing.T, host Env) {
	t.Helper()
	in, dirs := host.Installed, host.Dirs
	put := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o400)); err != nil {
			t.Fatal(err)
		}
	}
	put(dirs.Image(in.Image.ID).Rootfs(), "rootfs")
	put(dirs.Kernel(in.Kernel.ID).Vmlinux(), "kernel")
	put(dirs.Kernel(in.Kernel.ID).Modules(), "modules")
	put(dirs.Agent(in.Agent), "agent")
	file, err := os.Create(dirs.Kernel(in.Kernel.ID).BootModules())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(initrd.NewWriter(file).Close(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

// hostComment is what a key that a rename has read again lacks: the name once more.
var hostComment = regexp.MustCompile(`(?m) banger-\w+$`)

// String is the world as it is: VMs, images and kernels on record, what guests have
// of it, files, locks. Two equal strings mean that nothing was left behind and
// nothing is missing.
func (w *world) String() string {
	w.t.Helper()
	var out strings.Builder
	rows, err := w.Store.VMs(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, row := range rows {
		state, r := banger.Gone, (*run)(nil)
		if o := w.owner(row.ID); o != nil {
			_, state, r = o.now()
		}
		if state == banger.Booting { // for a moment
			state = banger.Running
		}
		locked, err := vmm.Locked(w.Dirs.VM(row.ID).Lock())
		fmt.Fprintf(&out, "VM %s %s wanted %s: %s, run %v, locked %v %v\n", row.Name, row.Phase, row.Wanted, state, r != nil, locked, err)
		fmt.Fprintf(&out, "  vCPUs %d, memory %v, overlay %v, work disk %v; on %s, from %s %s by %s %s\n",
			row.VCPUs, row.Memory, row.Overlay, row.Disk, row.Driver, row.Image, row.ImageID, row.Kernel, row.KernelID)
		if r != nil {
			has, err := r.machine.Memory(w.t.Context())
			fmt.Fprintf(&out, "  its guest has %v less than that, %v\n", row.Memory-(has.Launched-has.Balloon), err)
		}
	}
	images, errI := w.Store.Images(w.t.Context())
	known, errK := w.Store.KnownImages(w.t.Context())
	kernels, err := w.Store.Kernels(w.t.Context())
	if err := errors.Join(errI, errK, err); err != nil {
		w.t.Fatal(err)
	}
	fmt.Fprintf(&out, "images %v, of all %v; kernels %v\n", images, known, kernels)
	filepath.WalkDir(w.Dirs.State, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(w.Dirs.State, path)
		switch base := filepath.Base(path); {
		case err != nil:
			return err
		case strings.HasPrefix(base, "banger.db"), strings.HasPrefix(base, config.ConsoleName), strings.HasPrefix(base, "fake."), base == "lock", base == "failed", strings.HasSuffix(base, ".console.log"):
		case base == "known_hosts", base == "names":
			if text, _ := os.ReadFile(path); len(text) > 0 {
				fmt.Fprintf(&out, "%s %s", name, hostComment.ReplaceAll(text, nil))
			}
		case entry.Type().IsRegular() && base != "boot.json": // that holds times
			if info, err := entry.Info(); err == nil {
				fmt.Fprintf(&out, "%s %d bytes\n", name, info.Size())
			}
		default:
			fmt.Fprintf(&out, "%s %v\n", name, entry.Type())
		}
		return nil
	})
	return out.String()
}

// row returns a VM's row as the store has it.
func (w *world) row(id banger.VMID) (store.VM, error) {
	rows, err := w.Store.VMs(w.t.Context())
	for _, row := range rows {
		if row.ID == id {
			return row, err
		}
	}
	return store.VM{}, errors.Join(err, errors.New("it has no row"))
}

// owner returns a VM's, or nil.
func (w *world) owner(id banger.VMID) *owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.owners[id]
}

func (w *world) create(name string) banger.VM {
	w.t.Helper()
	_, err := w.CreateVM(w.t.Context(), banger.CreateVM{Name: name}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	vm, err := w.WaitVM(w.t.Context(), name, banger.WaitVM{For: banger.BootUp}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return vm
}

// until waits for what happens by itself.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: did not come true\n%s", what, w)
		}
	}
}

func (w *world) show1(name string) banger.VM {
	w.t.Helper()
	vm, err := w.ShowVM(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return vm
}

// act makes the guest do something unasked.
func (w *world) act(name, verb string) {
	w.t.Helper()
	conn, err := w.DialVM(w.t.Context(), name, vmmtest.PortAct)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, verb); err != nil {
		w.t.Fatal(err)
	}
	io.Copy(io.Discard, conn)
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	empty := w.String()
	var steps []string
	vm, err := w.CreateVM(ctx, banger.CreateVM{}, func(e banger.Step) {
		if e.Done {
			steps = append(steps, e.Step)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"reserve the name", "create disks", "record", "lock", "check disks", "connect the network", "configure", "launch", "boot"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
	if err := banger.CheckName(vm.Name); err != nil || !vm.State.Up() || vm.PID == 0 || vm.BootID == "" || vm.VCPUs != 1 {
		t.Errorf("%v: %+v", err, vm)
	}
	if _, err := os.Stat(w.Dirs.VM(vm.ID).Initrd()); err == nil {
		t.Error("the initrd with the boot's secrets is still there")
	}
	if again, err := w.StartVM(ctx, vm.Name, banger.StartVM{}, nil); err != nil || again.PID != vm.PID {
		t.Errorf("a second start: %v, pid %d, was %d", err, again.PID, vm.PID)
	}
	if err := w.DeleteVM(ctx, vm.Name, banger.DeleteVM{}, nil); banger.KindOf(err) != banger.Conflict {
		t.Errorf("delete of a running VM: %v", err)
	}
	stopped, err := w.StopVM(ctx, string(vm.ID), banger.StopVM{}, nil)
	if err != nil || stopped.State != banger.Stopped || stopped.Ending != banger.EndedPoweroff {
		t.Errorf("stop: %v, %+v", err, stopped)
	}
	if again, err := w.StopVM(ctx, vm.Name, banger.StopVM{}, nil); err != nil || again.State != banger.Stopped {
		t.Errorf("a second stop: %v", err)
	}
	if _, err := w.DialVM(ctx, vm.Name, 22); banger.KindOf(err) != banger.Conflict {
		t.Errorf("dial of a stopped VM: %v", err)
	}
	back, err := w.RestartVM(ctx, vm.Name, banger.StopVM{}, nil)
	if err != nil || !back.State.Up() || back.BootID == vm.BootID {
		t.Errorf("restart of a stopped VM: %v, %+v", err, back)
	}
	if err := w.DeleteVM(ctx, vm.Name, banger.DeleteVM{Force: true}, nil); err != nil {
		t.Error(err)
	}
	if now := w.String(); now != empty {
		t.Errorf("left behind:\n%s\nwas:\n%s", now, empty)
	}
}

// TestEveryStepFails makes each step of each verb fail once: before it has done
// anything, and when all its work is done. It finds the steps by itself: a run
// without a failure names them.
func TestEveryStepFails(t *testing.T) {
	for name, v := range verbs {
		if name == "the guest's reboot" {
			continue // there is nobody to be told
		}
		t.Run(name, func(t *testing.T) {
			var steps []string
			dry := newWorld(t)
			looks := dry.looks(v)
			dry.Operations.Before = func(step string) error { steps = append(steps, step); return nil }
			if err := v.do(t.Context(), dry.VMs); err != nil || len(steps) == 0 {
				t.Fatalf("%v, %d steps", err, len(steps))
			}
			dry.Operations.Before = nil
			done := dry.anonymous()
			dry.bring(absent)
			for _, failing := range steps {
				for _, when := range []string{"begun", "done"} {
					t.Run(failing+"/"+when, func(t *testing.T) { newWorld(t).fails(v, failing, when, looks, done) })
				}
			}
		})
	}
}

// fails makes one step fail, and looks at what that leaves, and whether the verb can
// be done after it.
func (w *world) fails(v verb, failing, when string, looks map[banger.State]string, done string) {
	w.t.Helper()
	w.begin(v)
	before := w.String()
	injected, once := errors.New("injected"), true
	inject := func(step string) (err error) {
		if step == failing && once {
			err, once = injected, false
		}
		return err
	}
	if when == "begun" {
		w.Operations.Before = inject
	} else {
		w.Operations.After = inject
	}
	err := v.do(w.t.Context(), w.VMs)
	if failing == v.despite && err == nil {
		if now := w.anonymous(); !v.same(now, done) {
			w.t.Errorf("done all the same, but:\n%s\nwant:\n%s", now, done)
		}
		return
	}
	if !errors.Is(err, injected) {
		w.t.Fatalf("got %v", err)
	}
	if after := w.String(); v.fails == nil && !v.same(after, before) {
		w.t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	w.survives()
	w.again() // finishes what cannot be undone
	if v.fails != nil {
		w.until("one of the states that it may leave", func() bool {
			now := w.anonymous()
			return slices.ContainsFunc(v.fails, func(state banger.State) bool { return now == looks[state] })
		})
		w.begin(v)
	}
	if err := v.do(w.t.Context(), w.VMs); err != nil {
		w.t.Errorf("the second try: %v", err)
	}
	if now := w.anonymous(); !v.same(now, done) {
		w.t.Errorf("after the second try:\n%s\nwant:\n%s", now, done)
	}
}

// stopped makes a VM that has run once.
func (w *world) stopped(name string) {
	w.t.Helper()
	w.create(name)
	if _, err := w.StopVM(w.t.Context(), name, banger.StopVM{}, nil); err != nil {
		w.t.Fatal(err)
	}
}

// TestGuestFaults is about guests and VMMs that do not do what they should.
func TestGuestFaults(t *testing.T) {
	for _, c := range []struct {
		fault vmmtest.Fault
		want  string
	}{
		{vmmtest.FailsProbe, "told not to work"},
		{vmmtest.FailsLaunch, "launch"},
		{vmmtest.NeverReady, "did not answer within 300ms"},
		{vmmtest.DiesBooting, "ended while it booted"},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			w := newWorld(t)
			w.stopped("otter")
			before := w.String()
			w.fake.SetFaults(c.fault)
			_, err := w.StartVM(t.Context(), "otter", banger.StartVM{Timeout: 300 * time.Millisecond}, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), `start VM "otter": `) || banger.FixOf(err) == "" {
				t.Errorf("got %v, fix %q", err, banger.FixOf(err))
			}
			if after := w.String(); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			w.fake.SetFaults()
			if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAGuestThatDoesNotStopIsEnded(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.IgnoresStop)
	w.create("mule")
	if vm, err := w.StopVM(t.Context(), "mule", banger.StopVM{Force: true}, nil); err != nil || vm.Ending != banger.EndedKilled {
		t.Errorf("%v, %+v", err, vm)
	}
	w.fake.SetFaults(vmmtest.PanicsAtStop)
	if _, err := w.StartVM(t.Context(), "mule", banger.StartVM{}, nil); err != nil {
		t.Fatal(err)
	}
	if vm, err := w.StopVM(t.Context(), "mule", banger.StopVM{}, nil); err != nil || vm.Ending != banger.EndedCrashed {
		t.Errorf("%v, %+v", err, vm)
	}
}

func TestCancelledStopGoesOnInTheGuest(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.IgnoresStop)
	w.create("mule")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.StopVM(ctx, "mule", banger.StopVM{}, func(e banger.Step) {
		if e.Step == "shutting down" {
			cancel()
		}
	})
	if banger.KindOf(err) != banger.Canceled {
		t.Errorf("got %v", err)
	}
	if vm := w.show1("mule"); vm.State != banger.Stopping {
		t.Errorf("it is %s", vm.State)
	}
}

func TestEndingsOfTheGuestsOwn(t *testing.T) {
	w := newWorld(t)
	first := w.create("otter")
	w.act("otter", "reboot")
	w.until("the reboot", func() bool {
		vm := w.show1("otter")
		return vm.State.Up() && vm.BootID != "" && vm.BootID != first.BootID
	})
	for _, c := range []struct {
		verb string
		want banger.Ending
	}{{"poweroff", banger.EndedPoweroff}, {"halt", banger.EndedHalt}, {vmmtest.Panic, banger.EndedCrashed}} {
		w.act("otter", c.verb)
		w.until(c.verb, func() bool { return w.show1("otter").State == banger.Stopped })
		if vm := w.show1("otter"); vm.Ending != c.want {
			t.Errorf("%s: ended by %q %q, want %q", c.verb, vm.Ending, vm.EndingBy, c.want)
		}
		if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEndingsUnwatched: the same, while no daemon lives.
func TestEndingsUnwatched(t *testing.T) {
	for verb, want := range map[string]banger.Ending{"poweroff": banger.EndedPoweroff, "halt": banger.EndedHalt, "reboot": banger.EndedReboot, vmmtest.Panic: banger.EndedCrashed} {
		t.Run(verb, func(t *testing.T) {
			w := newWorld(t)
			vm := w.create("otter")
			conn, err := w.DialVM(t.Context(), "otter", vmmtest.PortAct)
			if err != nil {
				t.Fatal(err)
			}
			w.Close() // it no longer watches, but this stream is still there
			fmt.Fprintln(conn, verb)
			io.Copy(io.Discard, conn)
			w.until("the end", func() bool { locked, _ := vmm.Locked(w.Dirs.VM(vm.ID).Lock()); return !locked })
			w.again()
			w.until("the ending", func() bool { return w.show1("otter").Ending == want })
			w.until("what follows", func() bool { return (w.show1("otter").State.Up()) == (verb == "reboot") })
		})
	}
}

func TestAdoption(t *testing.T) {
	w := newWorld(t)
	one, two := w.create("one"), w.create("two")
	w.again()
	for _, was := range []banger.VM{one, two} {
		w.until("the agent's hello", func() bool { return w.show1(was.Name).BootID != "" })
		if now := w.show1(was.Name); now.PID != was.PID || now.BootID != was.BootID || !now.State.Up() {
			t.Errorf("was %+v, is %+v", was, now)
		}
	}
	if vm, err := w.StopVM(t.Context(), "one", banger.StopVM{}, nil); err != nil || vm.Ending != banger.EndedPoweroff {
		t.Errorf("%v, %+v", err, vm)
	}
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	w.create("otter")
	before := w.String()
	for name, c := range map[string]struct {
		spec banger.CreateVM
		kind banger.Kind
	}{
		"bad name":     {banger.CreateVM{Name: "Otter"}, banger.Invalid},
		"taken name":   {banger.CreateVM{Name: "otter"}, banger.Conflict},
		"no image":     {banger.CreateVM{Image: "arch"}, banger.NotFound},
		"small disk":   {banger.CreateVM{Disk: banger.MiB}, banger.Invalid},
		"large disk":   {banger.CreateVM{Overlay: 1 << 60}, banger.Invalid},
		"small memory": {banger.CreateVM{Memory: banger.MiB}, banger.Invalid},
		"large memory": {banger.CreateVM{Memory: 1 << 60}, banger.Invalid},
		"many vCPUs":   {banger.CreateVM{VCPUs: 9}, banger.Invalid},
		"no vCPUs":     {banger.CreateVM{VCPUs: -1}, banger.Invalid},
	} {
		_, err := w.CreateVM(t.Context(), c.spec, nil)
		if banger.KindOf(err) != c.kind || banger.FixOf(err) == "" {
			t.Errorf("%s: %v (%s), fix %q", name, err, banger.KindOf(err), banger.FixOf(err))
		}
	}
	if after := w.String(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestLostDisk: nothing is made anew in place of a user's data.
func TestLostDisk(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	dir := w.Dirs.VM(w.show1("otter").ID)
	if err := os.Remove(dir.Work()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); banger.KindOf(err) != banger.Unready || !strings.Contains(err.Error(), "work.ext4") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir.Work()); err == nil {
		t.Error("an empty disk was made in its place")
	}
}

func TestWait(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.create("otter")
	for _, milestone := range []banger.Milestone{banger.AgentUp, banger.BootUp} {
		if vm, err := w.WaitVM(ctx, "otter", banger.WaitVM{For: milestone}, nil); err != nil || !vm.State.Up() {
			t.Errorf("%s: %v", milestone, err)
		}
	}
	if _, err := w.WaitVM(ctx, "otter", banger.WaitVM{For: banger.Off, Timeout: 20 * time.Millisecond}, nil); banger.KindOf(err) != banger.TimedOut || banger.FixOf(err) == "" {
		t.Errorf("a VM that runs: %v", err)
	}
	off := make(chan error)
	go func() {
		_, err := w.WaitVM(ctx, "otter", banger.WaitVM{For: banger.Off}, nil)
		off <- err
	}()
	w.act("otter", "poweroff")
	if err := <-off; err != nil {
		t.Error(err)
	}
	if _, err := w.WaitVM(ctx, "otter", banger.WaitVM{For: banger.BootUp}, nil); banger.KindOf(err) != banger.Conflict {
		t.Errorf("a stopped VM: %v", err)
	}
	if _, err := w.WaitVM(ctx, "otter", banger.WaitVM{For: "lunch"}, nil); banger.KindOf(err) != banger.Invalid {
		t.Errorf("nonsense: %v", err)
	}
	if _, err := w.StartVM(ctx, "otter", banger.StartVM{}, nil); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	go func() {
		_, err := w.WaitVM(ctx, "otter", banger.WaitVM{For: banger.Off}, func(banger.Step) {
			select {
			case <-waiting:
			default:
				close(waiting)
			}
		})
		off <- err
	}()
	<-waiting
	if err := w.DeleteVM(ctx, "otter", banger.DeleteVM{Force: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-off; err != nil && banger.KindOf(err) != banger.NotFound {
		t.Errorf("a deleted VM: %v", err)
	}
}
