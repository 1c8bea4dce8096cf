package shutdown

import (
	"bufio"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

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

// FuzzParseMounts: what the last stage needs itself is never in the list.
func FuzzParseMounts(f *testing.F) {
	f.Add("22 1 0:20 / / rw - tmpfs tmpfs rw\n30 22 254:0 / /old\\040root rw shared:1 - ext4 /dev/vda ro\n31 22 0:30 / /oldroot rw - overlay overlay rw\n")
	f.Add("30 22 254:0 /proc /proc/x rw - ext4 /dev/vda ro\n30 22 0:5 / /dev/pts rw - devpts\n")
	f.Add(" - \n1 2 3 4 5 -\n1 2 3 4 5 - \n")
	f.Fuzz(func(t *testing.T, table string) {
		list := parseMounts(strings.NewReader(table))
		if len(list) > strings.Count(table, "\n")+1 {
			t.Errorf("%d mounts", len(list))
		}
		for _, m := range list {
			if needed(m) || m.fs == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}
