package agent

import (
	"bufio"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

func newWatch(t *testing.T, kind initKind) *initWatch {
	t.Helper()
	file := filepath.Join(t.TempDir(), "init")
	if err := writeJSON(file, progress{Kind: kind, State: firstState(kind)}); err != nil {
		t.Fatal(err)
	}
	w, err := openInitWatch(file)
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
			w := newWatch(t, initSystemd)
			w.emergency = func() bool { return c.shell }
			for _, said := range c.said {
				w.hear(said)
			}
			again, err := openInitWatch(w.file)
			if err != nil {
				t.Fatal(err)
			}
			state, _ := again.state()
			if emergency := c.want == wire.InitEmergency; state != c.want || (again.reason() != "") != emergency {
				t.Errorf("%s, %q", state, again.reason())
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
		other   = "systemd[1]: Timed out waiting for device dev-nope.device - /dev/nope."
	)
	for want, log := range map[string][]string{
		"dev-nope.device timed out": {modules, other, target, mount, device, modules},
		"modules.service failed":    {other, mount, device, modules},
		"":                          {other, target, mount, strings.Repeat("x", 300) + device, "\xff\x00"},
	} {
		if got := readFailure([]byte(strings.Join(log, "\n"))); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestInitWatch(t *testing.T) {
	w := newWatch(t, initSystemd)
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
		{"X_SYSTEMD_SIGNALS_LEVEL=2", nil, false}, // executed anew by an upgrade
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
		_, changed := w.state()
		entered, again := w.hear(c.datagram)
		if !slices.Equal(entered, c.entered) || again != c.again {
			t.Errorf("%q: entered %v, again %v", c.datagram, entered, again)
		}
		select {
		case <-changed:
			if len(c.entered) == 0 {
				t.Errorf("%q: told of a change", c.datagram)
			}
		default:
			if len(c.entered) > 0 {
				t.Errorf("%q: told of no change", c.datagram)
			}
		}
	}
	again, err := openInitWatch(w.file)
	if err != nil {
		t.Fatal(err)
	}
	if state, _ := again.state(); state != wire.InitStopping || again.kind() != initSystemd {
		t.Errorf("a new server reads %q %q", state, again.kind())
	}
}

func TestBlocks(t *testing.T) {
	status := "Name:\tsystemd\nSigPnd:\t0000000000000000\nSigBlk:\t7fe3c0fe28014a03\nSigCgt:\t0\n"
	if !blocks(bufio.NewScanner(strings.NewReader(status)), sigRTMin+4) {
		t.Error("systemd's mask blocks SIGRTMIN+4")
	}
	if blocks(bufio.NewScanner(strings.NewReader("SigBlk:\t0000000000000000\nSigCgt:\tffffffffffffffff\n")), sigRTMin+4) {
		t.Error("a caught signal is not a blocked one")
	}
}

func TestVerbs(t *testing.T) {
	for _, c := range []struct {
		args []string
		want wire.Verb
	}{
		{[]string{"poweroff", "--log-level", "6"}, wire.Poweroff},
		{[]string{"reboot"}, wire.Reboot},
		{[]string{"halt"}, wire.Halt},
		{[]string{"kexec"}, wire.Reboot},
		{[]string{"exit"}, wire.Poweroff},
		{nil, wire.Reboot},
	} {
		if got := lastVerb(c.args); got != c.want {
			t.Errorf("%v: %s, want %s", c.args, got, c.want)
		}
	}
	for _, c := range []struct {
		verb  wire.Verb
		reset bool
		want  int
	}{
		{wire.Poweroff, false, unix.LINUX_REBOOT_CMD_POWER_OFF},
		{wire.Halt, false, unix.LINUX_REBOOT_CMD_POWER_OFF},
		{wire.Reboot, false, unix.LINUX_REBOOT_CMD_RESTART},
		{wire.Poweroff, true, unix.LINUX_REBOOT_CMD_RESTART},
		{wire.Halt, true, unix.LINUX_REBOOT_CMD_RESTART},
	} {
		if got := rebootCommand(c.verb, c.reset); got != c.want {
			t.Errorf("%+v: %x", c, got)
		}
	}
}

func TestParseMounts(t *testing.T) {
	const table = `21 1 0:5 /initramfs / rw - tmpfs tmpfs rw
30 21 0:30 / /oldroot rw,relatime shared:1 - overlay overlay rw,lowerdir=/base
31 30 254:48 /direct/x /oldroot/var/lib/my\040docker rw - ext4 /dev/vdd rw
32 30 0:40 / /oldroot/tmp rw - tmpfs tmpfs rw
33 21 0:20 / /proc rw - proc proc rw
34 33 0:41 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
35 21 0:6 / /dev rw - devtmpfs devtmpfs rw
36 21 0:22 / /run rw - tmpfs tmpfs rw
37 36 7:0 / /run/media/disk rw - ext4 /dev/loop0 rw
broken line
`
	got := parseMounts(strings.NewReader(table))
	want := []mounted{
		{"/oldroot", "overlay", true},
		{"/oldroot/var/lib/my docker", "ext4", true},
		{"/oldroot/tmp", "tmpfs", false},
		{"/run/media/disk", "ext4", true},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}
