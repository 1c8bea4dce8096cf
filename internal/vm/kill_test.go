package vm

import (
	"bytes"
	"context"
	"os"
	ossignal "os/signal"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/vmm/vmmtest"
)

func TestKill(t *testing.T) {
	// Where tests ignore the signal, as those run by nohup do, so would their VMMs.
	heard := make(chan os.Signal, 1)
	ossignal.Notify(heard, syscall.SIGHUP)
	defer ossignal.Stop(heard)
	defer func(was time.Duration) { perhapsTime = was }(perhapsTime)
	perhapsTime = time.Minute
	// 5 (SIGTRAP) is one that a VMM may handle, and this one does not.
	for given, want := range map[string]string{"": "SIGTERM", "kill": "SIGKILL", "SIGINT": "SIGINT", "1": "SIGHUP", "5": "SIGTRAP"} {
		t.Run(want, func(t *testing.T) {
			w := newWorld(t)
			w.create("otter")
			vm, err := w.KillVM(t.Context(), "otter", banger.KillVM{Signal: given}, nil)
			if err != nil || vm.State != banger.Stopped || vm.Ending != banger.EndedKilled || !strings.Contains(vm.EndingBy, want) {
				t.Errorf("%v, %+v", err, vm)
			}
			if _, err := w.KillVM(t.Context(), "otter", banger.KillVM{Signal: given}, nil); banger.KindOf(err) != banger.Conflict || banger.FixOf(err) == "" {
				t.Errorf("a stopped VM: %v", err)
			}
			if _, err := w.StartVM(t.Context(), "otter", banger.StartVM{}, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKillOfAnAdoptedVM(t *testing.T) {
	w := newWorld(t)
	w.create("otter")
	w.again()
	if vm, err := w.KillVM(t.Context(), "otter", banger.KillVM{}, nil); err != nil || vm.Ending != banger.EndedKilled {
		t.Errorf("%v, %+v", err, vm)
	}
}

func TestKillByWhatDoesNotEnd(t *testing.T) {
	w := newWorld(t)
	w.create("otter")
	// 28 (SIGWINCH) is ignored by whoever is not told of it.
	if vm, err := w.KillVM(t.Context(), "otter", banger.KillVM{Signal: "28"}, nil); err != nil || !vm.State.Up() {
		t.Errorf("%v, %+v", err, vm)
	}
	for _, bad := range []string{"0", "65", "-9", "WINCH", "TERM KILL", "9x"} {
		_, err := w.KillVM(t.Context(), "otter", banger.KillVM{Signal: bad}, nil)
		if banger.KindOf(err) != banger.Invalid || !strings.Contains(banger.FixOf(err), "TERM, KILL, INT, HUP, QUIT, USR1, USR2") {
			t.Errorf("%q: %v, fix %q", bad, err, banger.FixOf(err))
		}
	}
	w.act("otter", "poweroff")
	w.until("the end", func() bool { return w.show1("otter").Ending == banger.EndedPoweroff })
}

// A signal that a VMM survives is not what ends it later.
func TestKillSurvived(t *testing.T) {
	defer func(was time.Duration) { perhapsTime = was }(perhapsTime)
	perhapsTime = 10 * time.Millisecond
	w := newWorld(t)
	w.create("otter")
	vm, err := w.KillVM(t.Context(), "otter", banger.KillVM{Signal: "USR1"}, nil)
	if err != nil || !vm.State.Up() {
		t.Fatalf("%v, %+v", err, vm)
	}
	if err := syscall.Kill(vm.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("the end", func() bool { return w.show1("otter").Ending == banger.EndedVMMDied })
}

func TestRename(t *testing.T) {
	w := newWorld(t)
	was := w.create("otter")
	w.create("wombat")
	before := w.String()
	for name, kind := range map[string]banger.Kind{"wombat": banger.Conflict, "Bad": banger.Invalid, "": banger.Invalid} {
		if _, err := w.RenameVM(t.Context(), "otter", banger.RenameVM{Name: name}, nil); banger.KindOf(err) != kind || banger.FixOf(err) == "" {
			t.Errorf("%q: %v, fix %q", name, err, banger.FixOf(err))
		}
	}
	if after := w.String(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	note := ""
	now, err := w.RenameVM(t.Context(), "otter", banger.RenameVM{Name: "badger"}, func(e banger.Step) { note += e.Note })
	if err != nil || note != "" {
		t.Fatalf("%v, note %q", err, note)
	}
	if got := told(t, now); got != `{"name":"badger"}` {
		t.Errorf("the guest was told %s", got)
	}
	was.Name = "badger"
	if !reflect.DeepEqual(now, was) {
		t.Errorf("got %+v, want %+v", now, was)
	}
	hosts, _ := os.ReadFile(w.knownHosts)
	if text := string(hosts); strings.Contains(text, "otter.vm") || strings.Count(text, "banger-"+string(was.ID)+",badger.vm ssh-ed25519 ") != 1 {
		t.Errorf("known hosts:\n%s", text)
	}
	if _, err := w.ShowVM(t.Context(), "otter"); banger.KindOf(err) != banger.NotFound {
		t.Errorf("the old name: %v", err)
	}
	if _, err := w.RestartVM(t.Context(), "badger", banger.StopVM{}, nil); err != nil {
		t.Fatal(err)
	}
	console, _ := os.ReadFile(now.Console)
	if !strings.Contains(string(console), "guest badger is up") {
		t.Errorf("the guest's name:\n%s", console)
	}
	w.create("otter") // the name is free
}

// told returns what a running guest was told last.
func told(t *testing.T, vm banger.VM) string {
	t.Helper()
	console, err := os.ReadFile(vm.Console)
	if err != nil {
		t.Fatal(err)
	}
	_, last, _ := strings.Cut(string(console[bytes.LastIndex(console, []byte("configured ")):]), " ")
	return strings.TrimSpace(last)
}

func TestRenameWithAnOlderAgent(t *testing.T) {
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.KnowsNoStats)
	w.create("otter")
	note := ""
	vm, err := w.RenameVM(t.Context(), "otter", banger.RenameVM{Name: "badger"}, func(e banger.Step) { note += e.Note })
	if err != nil || vm.Name != "badger" || note != "the host name inside stays otter until the next boot" {
		t.Errorf("%v, %s, note %q", err, vm.Name, note)
	}
}

// TestRenameUndone: a guest that knows its new name gets the old one back.
func TestRenameUndone(t *testing.T) {
	w := newWorld(t)
	vm := w.create("otter")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.RenameVM(ctx, "otter", banger.RenameVM{Name: "badger"}, func(e banger.Step) {
		if e.Step == banger.StepTellGuest && e.Done {
			cancel()
		}
	})
	if banger.KindOf(err) != banger.Canceled || w.show1("otter").ID != vm.ID {
		t.Errorf("got %v", err)
	}
	if got := told(t, vm); got != `{"name":"otter"}` {
		t.Errorf("the guest was told %s", got)
	}
}

func TestRenameCancelledAtItsEnd(t *testing.T) {
	w := newWorld(t)
	w.stopped("otter")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.RenameVM(ctx, "otter", banger.RenameVM{Name: "badger"}, func(e banger.Step) {
		if e.Step == "update known hosts" && e.Done {
			cancel()
		}
	})
	if banger.KindOf(err) != banger.Canceled {
		t.Errorf("got %v", err)
	}
	if after := w.String(); strings.Contains(after, "badger") || !strings.Contains(after, ",otter.vm ") {
		t.Errorf("after it:\n%s", after)
	}
}
