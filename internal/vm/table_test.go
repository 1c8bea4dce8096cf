package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// trace collects the transitions that a log tells of.
type trace struct {
	slog.Handler
	mu   sync.Mutex
	seen map[string]bool
}

func (*trace) Enabled(context.Context, slog.Level) bool { return true }

func (tr *trace) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "transition" && r.Message != noTransition {
		return nil
	}
	values := map[string]string{}
	r.Attrs(func(a slog.Attr) bool { values[a.Key] = a.Value.String(); return true })
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.seen[fmt.Sprintf("%q by %q", values["from"], values["verb"])] = true
	return nil
}

func (tr *trace) WithAttrs([]slog.Attr) slog.Handler { return tr }
func (tr *trace) WithGroup(string) slog.Handler      { return tr }

// life is a world with the verbs as short words, which all have to succeed.
type life struct{ *world }

func (l life) ok(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l life) is(want banger.State) {
	l.t.Helper()
	l.until("it is "+string(want), func() bool { return l.show1("otter").State == want })
}

func (l life) new(start bool) {
	l.t.Helper()
	_, err := l.CreateVM(l.t.Context(), banger.CreateVM{Name: "otter", NoStart: !start}, nil)
	l.ok(err)
}

func (l life) start() error {
	_, err := l.StartVM(l.t.Context(), "otter", banger.StartVM{}, nil)
	return err
}

func (l life) stopVM() error {
	_, err := l.StopVM(l.t.Context(), "otter", banger.StopVM{}, nil)
	return err
}

func (l life) restart() error {
	_, err := l.RestartVM(l.t.Context(), "otter", banger.StopVM{}, nil)
	return err
}

func (l life) setVM() error {
	_, err := l.SetVM(l.t.Context(), "otter", banger.SetVM{Disk: l.show1("otter").Disk + banger.MiB}, nil)
	return err
}

func (l life) fsck() error {
	_, err := l.FsckVM(l.t.Context(), "otter", banger.FsckVM{}, nil)
	return err
}

func (l life) rename() error {
	_, err := l.RenameVM(l.t.Context(), "otter", banger.RenameVM{Name: "otter"}, nil)
	return err
}

func (l life) del(force bool) error {
	return l.DeleteVM(l.t.Context(), "otter", banger.DeleteVM{Force: force}, nil)
}

func (l life) killVM(signal string) error {
	_, err := l.KillVM(l.t.Context(), "otter", banger.KillVM{Signal: signal}, nil)
	return err
}

// untouched are the verbs that leave the state as it is.
func (l life) untouched() {
	l.t.Helper()
	l.ok(l.setVM())
	l.ok(l.rename())
	if l.show1("otter").State.Up() {
		l.ok(l.start())
		l.ok(l.killVM("28")) // SIGWINCH
		conn, err := l.DialVM(l.t.Context(), "otter", vmmtest.PortEcho)
		l.ok(err)
		conn.Close()
	}
}

// failAt makes a step fail once, before or after its work, and first does something.
func (l life) failAt(step string, after bool, do func()) {
	once := true
	hook := func(name string) error {
		if name != step || !once {
			return nil
		}
		if once = false; do != nil {
			do()
		}
		return errors.New("injected")
	}
	l.Operations.Before, l.Operations.After = nil, nil
	if after {
		l.Operations.After = hook
	} else {
		l.Operations.Before = hook
	}
}

// leave makes the guest shut down, and it takes its time.
func (l life) leave() {
	l.t.Helper()
	l.tell1("otter", wire.InitShutdown)
	l.is(banger.Stopping)
}

// later ends the VMM in a moment, as a guest's own verb or by a signal.
func (l life) later(verb string) {
	pid, o := l.show1("otter").PID, l.ownerOf("otter")
	r := o.running()
	time.AfterFunc(50*time.Millisecond, func() {
		if verb == "" {
			syscall.Kill(pid, syscall.SIGKILL)
			return
		}
		if conn, err := r.machine.Dial(context.Background(), vmmtest.PortAct); err == nil {
			fmt.Fprintln(conn, verb)
			conn.Close()
		}
	})
}

// reboots has the guest do so, and waits until it is back.
func (l life) reboots(to banger.State) {
	l.t.Helper()
	was := l.show1("otter").PID
	l.later("reboot")
	l.until("it is back", func() bool { vm := l.show1("otter"); return vm.State == to && vm.PID != was })
}

func (w *world) ownerOf(name string) *owner {
	w.t.Helper()
	o, err := w.find(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// lives are what can happen to a VM.
var lives = map[string]func(life){
	"from create to delete": func(l life) {
		l.new(false)
		l.untouched()
		l.ok(l.fsck())
		l.ok(l.stopVM())
		l.ok(l.restart())
		l.is(banger.Running)
		l.untouched()
		l.ok(l.restart())
		l.ok(l.stopVM())
		l.ok(l.del(false))
		l.new(false)
		l.ok(l.del(true))
		l.new(true)
		l.is(banger.Running)
		l.ok(l.del(true))
	},
	"a slow init": func(l life) {
		l.fake.SetFaults(vmmtest.SlowInit)
		l.new(true)
		l.is(banger.Booting)
		l.untouched()
		l.ok(l.restart())
		l.reboots(banger.Booting) // from booting
		l.tell1("otter", wire.InitUp)
		l.tell1("otter", wire.InitHears) // a soft reboot that was not seen to begin
		l.is(banger.Booting)
		l.tell1("otter", wire.InitShutdown)
		l.tell1("otter", wire.InitHears) // one that was
		l.is(banger.Booting)
		l.later("poweroff")
		l.is(banger.Stopped)
		l.ok(l.start())
		l.ok(l.del(true))
	},
	"a guest that goes down": func(l life) {
		l.new(true)
		for _, verb := range []func() error{l.fsck, l.start, l.setVM, l.restart} {
			l.ok(l.start())
			l.is(banger.Running)
			l.leave()
			l.later("poweroff")
			l.ok(verb())
		}
		l.is(banger.Running)
		l.leave()
		l.ok(l.rename())
		l.ok(l.killVM("28"))
		l.reboots(banger.Running)
		l.later("") // from running
		l.is(banger.Stopped)
		l.ok(l.start())
		l.is(banger.Running)
		l.reboots(banger.Running)
		l.leave()
		l.ok(l.stopVM()) // as a stop that joins it
		l.ok(l.start())
		l.is(banger.Running)
		l.leave()
		l.ok(l.del(true))
	},
	"a stop that the guest has not heard of": func(l life) {
		l.new(true)
		ctx, cancel := context.WithCancel(l.t.Context())
		_, err := l.StopVM(ctx, "otter", banger.StopVM{}, func(banger.Step) { cancel() })
		if banger.KindOf(err) != banger.Canceled {
			l.t.Error(err)
		}
		l.is(banger.Running)
	},
	"starts that fail": func(l life) {
		l.new(false)
		l.failAt("boot", true, nil) // from running
		if l.start() == nil {
			l.t.Error("the injected failure is lost")
		}
		l.failAt("boot", true, func() { l.tell1("otter", wire.InitShutdown) })
		if l.start() == nil {
			l.t.Error("the injected failure is lost")
		}
		l.fake.SetFaults(vmmtest.SlowInit)
		l.failAt("boot", true, nil)
		if l.start() == nil {
			l.t.Error("the injected failure is lost")
		}
		l.fake.SetFaults(vmmtest.NeverReady)
		reached := make(chan error, 1)
		_, err := l.StartVM(l.t.Context(), "otter", banger.StartVM{Timeout: 300 * time.Millisecond}, func(s banger.Step) {
			if s.Step == "boot" && !s.Done {
				go func() {
					_, err := l.DialVM(l.t.Context(), "otter", vmmtest.PortEcho)
					reached <- err
				}()
				l.ok(l.killVM("28"))
			}
		})
		waited := <-reached // until the start had failed
		if banger.KindOf(err) != banger.TimedOut || banger.KindOf(waited) != banger.Conflict || !strings.Contains(fmt.Sprint(waited), "while it is stopped") {
			l.t.Errorf("the start: %v; a connection meanwhile: %v", err, waited)
		}
		l.is(banger.Stopped)
	},
	"a create and a delete that fail": func(l life) {
		l.failAt("create disks", false, nil)
		if _, err := l.CreateVM(l.t.Context(), banger.CreateVM{Name: "otter"}, nil); err == nil {
			l.t.Error("the injected failure is lost")
		}
		for _, force := range []bool{false, true} {
			l.new(false)
			l.failAt("mark", true, nil)
			if l.del(force) == nil {
				l.t.Error("the injected failure is lost")
			}
			l.is(banger.Deleting)
			l.ok(l.del(force))
		}
	},
	"daemons that come and go": func(l life) {
		l.new(true)
		for _, verb := range []string{"reboot", "poweroff"} {
			l.is(banger.Running)
			lock := l.ownerOf("otter").dir().Lock()
			r := l.ownerOf("otter").running()
			conn, err := r.machine.Dial(l.t.Context(), vmmtest.PortAct)
			l.ok(err)
			l.Close()
			fmt.Fprintln(conn, verb)
			l.until("the end", func() bool { locked, _ := vmm.Locked(lock); return !locked })
			l.again()
		}
		l.is(banger.Stopped)
		l.ok(l.start())
		l.again()
		l.is(banger.Running)
	},
}

// TestEveryTransitionHappens lives through all that can happen to a VM, and asks of
// the table of states that it has each transition that then happens and no other.
func TestEveryTransitionHappens(t *testing.T) {
	tr := &trace{seen: map[string]bool{}}
	t.Run("lives", func(t *testing.T) {
		for name, live := range lives {
			t.Run(name, func(t *testing.T) {
				w := newWorldWith(t, slog.New(tr))
				live(life{w})
			})
		}
	})
	for _, row := range banger.Transitions {
		key := fmt.Sprintf("%q by %q", row.From, row.Verb)
		if !tr.seen[key] {
			t.Errorf("%s never happens", key)
		}
		delete(tr.seen, key)
	}
	for key := range tr.seen {
		t.Errorf("%s happens, and is not in the table", key)
	}
}
