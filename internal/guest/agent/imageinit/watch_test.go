package imageinit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/guest/wire"
)

func newWatch(t *testing.T, kind Kind) *Watch {
	t.Helper()
	file := filepath.Join(t.TempDir(), "init")
	if err := Begin(file, kind); err != nil {
		t.Fatal(err)
	}
	w, err := OpenWatch(file)
	if err != nil {
		t.Fatal(err)
	}
	w.emergency, w.why = func() bool { return false }, func() string { return "nope.mount: it failed" }
	return w
}

// TestEmergencyModeIsNotUp: systemd reports READY=1 in its emergency mode as well.
func TestEmergencyModeIsNotUp(t *testing.T) {
	for name, c := range map[string]struct {
		shell bool // the emergency shell runs
		said  []string
		want  wire.Init
	}{
		"a systemd that tells no targets":   {true, []string{"READY=1\nSTATUS=Startup finished in 12s.\n"}, wire.InitEmergency},
		"a systemd that tells them":         {false, []string{"X_SYSTEMD_UNIT_ACTIVE=emergency.target", "READY=1"}, wire.InitEmergency},
		"rescue mode, entered later":        {false, []string{"READY=1", "X_SYSTEMD_UNIT_ACTIVE=rescue.target"}, wire.InitEmergency},
		"left again":                        {true, []string{"READY=1", "X_SYSTEMD_UNIT_ACTIVE=multi-user.target"}, wire.InitUp},
		"stopped":                           {true, []string{"READY=1", "X_SYSTEMD_UNIT_ACTIVE=shutdown.target", "READY=1"}, wire.InitShutdown},
		"a shutdown is not left for a mode": {true, []string{"X_SYSTEMD_UNIT_ACTIVE=shutdown.target", "X_SYSTEMD_UNIT_ACTIVE=emergency.target"}, wire.InitShutdown},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatch(t, Systemd)
			w.emergency = func() bool { return c.shell }
			for _, said := range c.said {
				w.Hear(said)
			}
			again, err := OpenWatch(w.file)
			if err != nil {
				t.Fatal(err)
			}
			state, _ := again.State()
			if emergency := c.want == wire.InitEmergency; state != c.want || (again.Reason() != "") != emergency {
				t.Errorf("%s, %q", state, again.Reason())
			}
		})
	}
}

func TestReadFailure(t *testing.T) {
	const (
		modules = "systemd[1]: modules.service: Job modules.service/start failed with result 'failed'."
		target  = "systemd[1]: local-fs.target: Job local-fs.target/start failed with result 'dependency'."
		mount   = "nope.mount: Job nope.mount/start failed with result 'dependency'."
		device  = "dev-nope.device: Job dev-nope.device/start failed with result 'timeout'."
		swaps   = "systemd[1]: swap.target: Job swap.target/start failed with result 'dependency'."
		swap    = "dev-swap.device: Job dev-swap.device/start failed with result 'timeout'."
		other   = "systemd[1]: Timed out waiting for device dev-nope.device - /dev/nope."
	)
	for want, log := range map[string][]string{
		"dev-nope.device timed out": {swaps, swap, modules, other, target, mount, device, modules},
		"modules.service failed":    {other, mount, device, modules}, // no target failed
		"":                          {other, target, mount, strings.Repeat("x", 300) + device, "\xff\x00"},
	} {
		got, known := readFailure([]byte(strings.Join(log, "\n")))
		if got != want || known != (want == "dev-nope.device timed out") {
			t.Errorf("got %q, %v, want %q", got, known, want)
		}
	}
}

func TestInitWatch(t *testing.T) {
	w := newWatch(t, Systemd)
	for _, c := range []struct {
		datagram string
		entered  []wire.Init
		again    bool
	}{
		{"X_SYSTEMD_HOSTNAME=otter\nX_SYSTEMD_MACHINE_ID=0", nil, false},
		{"X_SYSTEMD_SIGNALS_LEVEL=2", []wire.Init{wire.InitHears}, false},
		{"X_SYSTEMD_UNIT_ACTIVE=basic.target", nil, false},
		{"X_SYSTEMD_UNIT_ACTIVE=multi-user.target", []wire.Init{wire.InitUp}, false},
		{"READY=1\nSTATUS=Startup finished in 12s.\n", nil, false},
		{"X_SYSTEMD_SIGNALS_LEVEL=2", nil, false}, // executed again by an upgrade
		{"STATUS=Activating special unit sigpwr.target...", nil, false},
		{"STATUS=Activating special unit soft-reboot.target...", []wire.Init{wire.InitStopping}, false},
		{"X_SYSTEMD_UNIT_INACTIVE=multi-user.target", nil, false},
		{"X_SYSTEMD_UNIT_ACTIVE=multi-user.target", nil, false},
		{"X_SYSTEMD_UNIT_ACTIVE=shutdown.target", []wire.Init{wire.InitShutdown}, false},
		{"STATUS=Activating special unit poweroff.target...", nil, false},
		{"X_SYSTEMD_SIGNALS_LEVEL=2", []wire.Init{wire.InitHears}, true},
		{"READY=1", []wire.Init{wire.InitUp}, false},
		{"X_SYSTEMD_SIGNALS_LEVEL=2\nSTATUS=Activating special unit reboot.target...", []wire.Init{wire.InitStopping}, false},
	} {
		_, changed := w.State()
		entered, again := w.Hear(c.datagram)
		if !slices.Equal(entered, c.entered) || again != c.again {
			t.Errorf("%q: entered %v, again %v", c.datagram, entered, again)
		}
		select {
		case <-changed:
			if len(c.entered) == 0 {
				t.Errorf("%q: reported a change", c.datagram)
			}
		default:
			if len(c.entered) > 0 {
				t.Errorf("%q: reported no change", c.datagram)
			}
		}
	}
	again, err := OpenWatch(w.file)
	if err != nil {
		t.Fatal(err)
	}
	if state, _ := again.State(); state != wire.InitStopping || again.Kind() != Systemd {
		t.Errorf("a new server reads %q %q", state, again.Kind())
	}
}

// TestAsk: systemd announces a shutdown late unless a signal asked for it.
func TestAsk(t *testing.T) {
	w := newWatch(t, Systemd)
	w.Hear("READY=1")
	stopping := false
	w.ends = func() bool { return stopping }
	if w.Ask() {
		t.Error("a shutdown was found that is not one")
	}
	stopping = true
	if state, _ := w.State(); !w.Ask() || state != wire.InitUp {
		t.Errorf("from %s: the shutdown was not found", state)
	}
	if state, _ := w.State(); w.Ask() || state != wire.InitStopping {
		t.Errorf("it is %s, or was found twice", state)
	}
	w.Hear("X_SYSTEMD_SIGNALS_LEVEL=2") // a soft reboot
	w.ends = func() bool {
		w.Hear("READY=1")
		return true
	}
	if state, _ := w.State(); w.Ask() || state != wire.InitHears {
		t.Errorf("from %s: the answer was older than what systemd said", state)
	}
	none := newWatch(t, None) // process 1 handles the signal to end before the one to answer
	none.wake = func() {
		none.Hear("STATUS=Activating special unit poweroff.target...")
		none.Hear(Awake)
	}
	none.Ask()
	if state, _ := none.State(); state != wire.InitStopping {
		t.Errorf("it is %s", state)
	}
	none = newWatch(t, None)
	none.wake = func() { none.Hear(Awake) }
	if state, _ := none.State(); none.Ask() || state != wire.InitNone {
		t.Errorf("it is %s", state)
	}
	other := newWatch(t, Foreign)
	other.ends = func() bool { return true }
	if other.Ask() {
		t.Error("another init was taken for systemd")
	}
	for said, want := range map[string]bool{"X_SYSTEMD_UNIT_INACTIVE=graphical.target": true, "X_SYSTEMD_UNIT_ACTIVE=graphical.target": false} {
		if MayEnd(said) != want {
			t.Errorf("%s: %v", said, !want)
		}
	}
}

func TestImageInit(t *testing.T) {
	program := func(root, path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(root, to, path string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	debian, alpine, bare, none := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	program(debian, "usr/lib/systemd/systemd")
	link(debian, "usr/lib", "lib")
	link(debian, "usr/sbin", "sbin")
	program(debian, "usr/sbin/other")
	link(debian, "/lib/systemd/systemd", "usr/sbin/init")
	program(alpine, "bin/busybox")
	program(alpine, "sbin/other")
	link(alpine, "/bin/busybox", "sbin/init")
	program(bare, "lib/systemd/systemd")
	program(none, "bin/sh")
	link(none, "/nowhere", "bin/init")
	for _, c := range []struct {
		root, program string
		kind          Kind
	}{
		{debian, "/sbin/init", Systemd},
		{alpine, "/sbin/init", Foreign},
		{bare, "/lib/systemd/systemd", Systemd},
		{none, "", None},
	} {
		if program, kind := Find(c.root); program != c.program || kind != c.kind {
			t.Errorf("got %q %q, want %q %q", program, kind, c.program, c.kind)
		}
	}
}
