package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/event"
)

// seen calls after with each line that a command has printed to it.
type seen struct {
	mu    sync.Mutex
	text  bytes.Buffer
	after func(line string)
}

func (s *seen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	for line := range strings.Lines(string(p)) {
		s.after(line)
	}
	return len(p), nil
}

// steady replaces the times in a command's output.
func (s *seen) steady() string {
	text := ""
	for line := range strings.Lines(s.text.String()) {
		if len(line) > 23 && line[4] == '-' && line[19] == '.' {
			line = "TIME" + line[23:]
		}
		text += line
	}
	return text
}

func published(vm banger.VM, gone bool) banger.Event {
	return banger.Event{Kind: banger.EventVM, VM: &vm, Gone: gone}
}

func operating(o banger.Operation) banger.Event {
	return banger.Event{Kind: banger.EventOperation, Operation: &o}
}

// hubOf returns a hub whose snapshot has vms.
func hubOf(vms ...banger.VM) *event.Hub {
	hub := event.NewHub()
	hub.Add(func(context.Context) (all []banger.Event, _ error) {
		for _, vm := range vms {
			e := published(vm, false)
			e.Time = time.Now()
			all = append(all, e)
		}
		return all, nil
	})
	return hub
}

// publishChanges publishes what happens to otter and wombat. The last is that otter, which
// was renamed, is deleted.
func publishChanges(hub *event.Hub) {
	otter, wombat := aVM("otter", banger.Stopping), aVM("wombat", banger.Stopped)
	wombat.Ending = banger.EndedKilled
	stop := banger.Operation{ID: "1", Noun: "vm", Verb: banger.Stop, Name: "otter", VMID: otter.ID}
	hub.Publish(operating(stop))
	stop.Step = &banger.Step{VM: "otter", Step: "shut\x1bdown"}
	hub.Publish(operating(stop))
	hub.Publish(published(otter, false))
	otter.Ending = banger.EndedReboot // which is shown once it is stopped
	hub.Publish(published(otter, false))
	hub.Publish(published(wombat, false))
	stop.Step = &banger.Step{VM: "otter", Step: "shutdown", Note: "slow"}
	hub.Publish(operating(stop))
	stop.Step = &banger.Step{VM: "otter", Step: "shutdown", Done: true, Took: 1200 * time.Millisecond}
	hub.Publish(operating(stop))
	otter.Name, otter.State = "badger", banger.Stopped
	hub.Publish(published(otter, false))
	stop.Ended, stop.Took = true, 2*time.Second
	hub.Publish(operating(stop))
	stop.Failure = &banger.Failure{Kind: banger.Conflict, Message: "no"}
	hub.Publish(operating(stop))
	hub.Publish(banger.Event{Kind: banger.EventImage, Image: &banger.Image{Name: "docker"}})
	hub.Publish(banger.Event{Kind: banger.EventKernel, Gone: true, Kernel: &banger.Kernel{Name: "6.12"}})
	hub.Publish(published(otter, true))
}

// watchChanges runs a command that prints events until the last of publishChanges.
func watchChanges(t *testing.T, f *fakeDaemon, tty bool, isReady, isLast func(line string) bool, args ...string) (run, *seen) {
	t.Helper()
	signals := make(chan os.Signal, 1)
	out := &seen{after: func(line string) {
		if isReady(line) {
			go publishChanges(f.hub)
		}
		if isLast(line) {
			signals <- os.Interrupt
		}
	}}
	return f.run(t, setup{stdout: out, signals: signals, tty: tty}, args...), out
}

func has(word string) func(string) bool {
	return func(line string) bool { return strings.Contains(line, word) }
}

func TestEvents(t *testing.T) {
	all := `TIME  vm otter  running
TIME  ready
TIME  vm otter  stop
TIME  vm otter  stop: shut?down
TIME  vm otter  stopping
TIME  vm wombat  stopped (killed)
TIME  vm otter  stop: shutdown: slow
TIME  vm otter  stop: shutdown ... 1.2s
TIME  vm badger  stopped
TIME  vm otter  stop done after 2.0s
TIME  vm otter  stop failed after 2.0s: no
TIME  image docker  exists
TIME  kernel 6.12  deleted
TIME  vm badger  deleted
`
	without := func(words ...string) string {
		lines := slices.Collect(strings.Lines(all))
		return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
			return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(line, word) })
		}), "")
	}
	for _, c := range []struct{ flags, want, note string }{
		{"", all, ""},
		{"--no-snapshot", without("otter  running"), ""},
		{"--vm otter", without("wombat", "image", "kernel"), ""},
		{"--vm otter --vm wombat", without("image", "kernel"), "note: there is no VM \"wombat\" yet\n"},
		{"--vm " + string(aVM("otter", "").ID), without("wombat", "image", "kernel"), ""},
	} {
		f := newFake()
		f.hub = hubOf(aVM("otter", banger.Running))
		r, out := watchChanges(t, f, false, has("  ready\n"), has("badger  deleted\n"), strings.Fields("events "+c.flags)...)
		if got := out.steady(); got != c.want || r.code != exitInterrupted || r.errOut != c.note {
			t.Errorf("%q: exit code %d\n%s%s\nwant\n%s", c.flags, r.code, got, r.errOut, c.want)
		}
	}
}

func TestEventsJSON(t *testing.T) {
	f := newFake()
	f.hub = hubOf(aVM("otter", banger.Running))
	r, out := watchChanges(t, f, false, has(`"kind":"ready"`), has(`"gone":true,"vm"`), "events", "--json")
	var got []banger.Event
	for line := range strings.Lines(out.text.String()) {
		var e banger.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		got = append(got, e)
	}
	if len(got) != 15 || got[0].VM == nil || got[2].Operation == nil || got[14].Seq != 13 || r.code != exitInterrupted {
		t.Errorf("exit code %d, %+v", r.code, got)
	}
}

// nth reports whether it is called for the nth time with a line that has word.
func nth(n int, word string) func(string) bool {
	return func(line string) bool {
		if !strings.Contains(line, word) {
			return false
		}
		n--
		return n == 0
	}
}

// TestListWatch: each change of what the list shows prints it again.
func TestListWatch(t *testing.T) {
	const head = "NAME   STATE    IMAGE   VCPUS  MEMORY  DISK  AGE\n"
	const wide = "NAME    STATE             IMAGE   VCPUS  MEMORY  DISK  AGE\n"
	const rest = "  docker  1      1G      16G   3h\n"
	const killed = "wombat  stopped (killed)" + rest
	lists := []string{head + "otter  running" + rest, "NAME   STATE     IMAGE   VCPUS  MEMORY  DISK  AGE\notter  stopping" + rest,
		wide + "otter   stopping        " + rest + killed, wide + "badger  stopped         " + rest + killed, wide + killed}
	const clear = "\x1b[H\x1b[2J"
	for _, c := range []struct {
		flags string
		tty   bool
		want  string
	}{
		{"", false, strings.Join(lists, "\n")},
		{"", true, clear + strings.Join(lists, clear)},
		{"--quiet", false, "otter\n\notter\nwombat\n\nbadger\nwombat\n\nwombat\n"},
	} {
		f := newFake()
		f.hub = hubOf(aVM("otter", banger.Running))
		r, out := watchChanges(t, f, c.tty, nth(1, "otter"), nth(3, "wombat"), strings.Fields("vm list --watch "+c.flags)...)
		if got := out.text.String(); got != c.want || r.code != exitInterrupted || r.errOut != "" {
			t.Errorf("%q: exit code %d\n%s%s\nwant\n%s", c.flags, r.code, got, r.errOut, c.want)
		}
	}
	f := newFake()
	f.hub = hubOf(aVM("otter", banger.Running))
	_, out := watchChanges(t, f, false, nth(1, "otter"), nth(3, "wombat"), "vm", "list", "--watch", "--json")
	got := ""
	for line := range strings.Lines(out.text.String()) {
		var vms []banger.VM
		if err := json.Unmarshal([]byte(line), &vms); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		for _, vm := range vms {
			got += vm.Name + " " + string(vm.State) + ", "
		}
	}
	if want := "otter running, otter stopping, otter stopping, otter stopping, wombat stopped, badger stopped, wombat stopped, wombat stopped, "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestEventsAfterADrop: a reader that was too slow gets a new snapshot.
func TestEventsAfterADrop(t *testing.T) {
	f := newFake()
	f.hub = hubOf(aVM("otter", banger.Running))
	signals := make(chan os.Signal, 1)
	fill := nth(1, "  ready\n")
	second := nth(2, "  ready\n")
	out := &seen{after: func(line string) {
		if fill(line) {
			for range event.Kept + 1 {
				f.hub.Publish(published(aVM("wombat", banger.Running), false))
			}
		}
		if second(line) {
			signals <- os.Interrupt
		}
	}}
	r := f.run(t, setup{stdout: out, signals: signals}, "events")
	want := "TIME  vm otter  running\nTIME  ready\nTIME  dropped  this reader was too slow; a new snapshot follows\n"
	want += "TIME  vm otter  running\nTIME  ready\n"
	if got := out.steady(); got != want || r.code != exitInterrupted {
		t.Errorf("exit code %d\n%s\nwant\n%s", r.code, got, want)
	}
}
