//go:build vm

package lab

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/guest/wire"
)

// The longest tests are in the last file: go test starts parallel tests from the end, so
// that others run beside them.

// TestEndsWithoutInit: the endings of a guest whose init is the agent are told apart.
func TestEndsWithoutInit(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "bare", "--image", h.tiny(t))
	act := func(t *testing.T, script string) {
		t.Helper()
		h.banger(t, "vm", "start", vm.Name)
		h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "sh", "-c", script)
	}
	for _, c := range []struct {
		script string
		want   banger.Ending
		detail string
		atOnce bool // it is started again before its end was seen
	}{
		{"poweroff", banger.EndedPoweroff, "", true},
		{"halt", banger.EndedHalt, "", false},
		{"mount --make-rshared / && poweroff", banger.EndedPoweroff, "", false},
		{"sync; poweroff -f", banger.EndedUnclean, "switched itself off without unmounting", true},
		{"sync; reboot -f", banger.EndedUnclean, "reset itself without unmounting", false},
		{"kill -SEGV 1", banger.EndedCrashed, "kernel panic: Attempted to kill init", false},
		{"echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger", banger.EndedCrashed, "kernel panic: ", false},
		{"sync; echo triple >/sys/kernel/reboot/type; echo 1 >/proc/sys/kernel/sysrq; echo b >/proc/sysrq-trigger",
			banger.EndedCrashed, "was reset and gave no reason (", true}, // a triple fault
	} {
		t.Run(c.script, func(t *testing.T) {
			h.banger(t, "vm", "start", vm.Name)
			boot := h.bootID(t, vm.Name)
			act(t, c.script)
			if c.atOnce {
				h.startsAnew(t, vm.Name, boot, c.want, c.detail)
				return
			}
			now := h.ended(t, vm.Name)
			ended(t, now, c.want, c.detail)
			if now.Ending.Clean() {
				cleanVM(t, vm)
				if strings.Contains(console(t, vm), "become last stage") {
					t.Errorf("it was ended without the last stage:\n%s", console(t, vm))
				}
			}
		})
	}
	t.Run("halt without an end", func(t *testing.T) {
		act(t, "sync; (sleep 1; halt -f) >/dev/null 2>&1 &")
		until(t, time.Minute, "the halt", func() bool { return strings.Contains(console(t, vm), "reboot: System halted") })
		h.banger(t, "vm", "stop", vm.Name)
		ended(t, h.show(t, vm.Name), banger.EndedUnclean, "the guest halted without unmounting")
	})
	t.Run("a reboot", func(t *testing.T) {
		h.banger(t, "vm", "start", vm.Name)
		boot := h.bootID(t, vm.Name)
		act(t, "reboot")
		h.comesBack(t, vm.Name, boot)
	})
	t.Run("a stubborn program", func(t *testing.T) {
		act(t, `(trap "" TERM HUP INT; while :; do sleep 1000; done) >/dev/null 2>&1 </dev/null &`)
		h.stopped(t, vm)
	})
}

// TestGuestEnds is the same with systemd.
func TestGuestEnds(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "ends")
	act := func(t *testing.T, script string) {
		t.Helper()
		h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "sh", "-c", script)
	}
	t.Run("a start while it powers off", func(t *testing.T) {
		boot := h.bootID(t, vm.Name)
		h.sh(t, vm.Name, "printf '"+foreignFstab+"' >/etc/fstab; sync")
		// Through logind, which the agent does not hear of, and which may not run yet.
		act(t, "until systemctl poweroff; do sleep 1; done")
		h.startsAnew(t, vm.Name, boot, banger.EndedPoweroff, "")
	})
	t.Run("halt", func(t *testing.T) {
		// If systemd is slow to answer, `halt` asks it in another way, which powers off
		// instead.
		act(t, "until systemctl halt; do sleep 1; done")
		ended(t, h.ended(t, vm.Name), banger.EndedHalt, "")
		cleanVM(t, vm)
	})
	t.Run("poweroff -f", func(t *testing.T) {
		h.banger(t, "vm", "start", vm.Name)
		// The kernel takes the disks away from running programs. An init that
		// still has to read parts of itself could crash, which is a panic.
		h.booted(t, vm.Name)
		passedOver(t, h, vm)
		boot := h.bootID(t, vm.Name)
		act(t, "sync; poweroff -f")
		h.startsAnew(t, vm.Name, boot, banger.EndedUnclean, "switched itself off without unmounting")
	})
	t.Run("an init that has crashed", func(t *testing.T) {
		h.banger(t, "vm", "start", vm.Name)
		h.inGuest(t, vm.Name, "grep -qE 'hears|up' /run/banger/init")
		h.sh(t, vm.Name, "echo /dev/loop99 /mnt ext4 x-systemd.device-timeout=1s 0 2 >>/etc/fstab; sync")
		act(t, "kill -SEGV 1")
		h.inGuest(t, vm.Name, "test $(ls /proc/1/fd | wc -l) -le 3") // programs still run
		if now := h.show(t, vm.Name); !now.State.Up() {
			t.Errorf("it is %s", now.State)
		}
		h.banger(t, "vm", "stop", vm.Name)
		ended(t, h.show(t, vm.Name), banger.EndedPoweroff, "the init has crashed")
		if _, after, _ := strings.Cut(console(t, vm), "Emergency Remount R/O"); !strings.Contains(after, wire.ConsoleBye) {
			t.Errorf("the guest said bye before its disks were written:\n%s", console(t, vm))
		}
		cleanVM(t, vm)
	})
	t.Run("a boot that ends in emergency mode", func(t *testing.T) {
		h.banger(t, "vm", "start", vm.Name)
		r := h.run(t.Context(), nil, "vm", "wait", "--for", "boot", "--timeout", bootTime.String(), vm.Name)
		if unit := "dev-loop99.device"; r.code != 1 || !strings.Contains(r.stderr, unit) || !strings.Contains(r.stderr, "\nfix: ") {
			t.Errorf("exit %d, want 1, %s and a fix: %s%s", r.code, unit, r.stdout, r.stderr)
		}
		if p := h.show(t, vm.Name).Problems; len(p) != 1 || p[0].Kind != banger.ProblemBoot {
			t.Errorf("problems: %+v", p)
		}
		h.stopped(t, vm)
	})
}

// foreignFstab is that of another machine, and a last line that is of use here.
const foreignFstab = `UUID=5b7a3c1e-0000-4000-8000-000000000001 / ext4 errors=remount-ro 0 1
UUID=1234-ABCD /boot/efi vfat umask=0077 0 1
/dev/mapper/vg-home /home ext4 defaults 0 2
/home/ann /srv none bind 0 0
UUID=5b7a3c1e-0000-4000-8000-000000000002 none swap sw 0 0
tmpfs /scratch tmpfs size=10m,x-mount.mkdir 0 0
`

// passedOver checks that a VM has booted with foreignFstab.
func passedOver(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	for _, dead := range []string{"/", "/boot/efi", "/home", "/srv", "none"} {
		if want := " at " + dead + ", which this VM does not have"; !strings.Contains(console(t, vm), want) {
			t.Errorf("%q is not in the log:\n%s", want, console(t, vm))
		}
	}
	got := h.sh(t, vm.Name, "findmnt -no FSTYPE /scratch; findmnt -no FSTYPE /home; systemctl --failed --plain --no-legend; cat /etc/fstab")
	if want := "tmpfs\n" + strings.TrimSpace(foreignFstab); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// rounds returns how often a test repeats itself: BANGER_TEST_ROUNDS, or usual.
func rounds(t *testing.T, usual int) int {
	text := os.Getenv("BANGER_TEST_ROUNDS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestStopWhileBooting asks for a stop at several moments of a boot: the request is never
// lost, and the init always ends the machine.
func TestStopWhileBooting(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "hasty")
	h.stopped(t, vm) // as soon as the agent answers
	t.Run("asked by another client while it starts", func(t *testing.T) { stopsAStart(t, vm) })
	for range rounds(t, 1) {
		for _, moment := range []string{"grep -q hears /run/banger/init", "pidof systemd-udevd", "test -S /run/dbus/system_bus_socket"} {
			t.Run(moment, func(t *testing.T) {
				h.banger(t, "vm", "start", vm.Name)
				h.inGuest(t, vm.Name, moment)
				h.stopped(t, vm)
			})
		}
	}
}

func stopsAStart(t *testing.T, vm banger.VM) {
	t.Helper()
	start := shared.command(t.Context(), "vm", "start", vm.Name)
	if err := start.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, time.Minute, "the start's begin", func() bool { return shared.show(t, vm.Name).State != banger.Stopped })
	shared.stopped(t, vm)
	if err := start.Wait(); err != nil {
		t.Errorf("the start: %v", err)
	}
}

// TestSystemd is the long life of one VM of the default image. Docker starts at its first
// use, and a container is back after the guest's own reboot, in which the agent hands
// over to systemd and back. Then comes a soft reboot, and a stop with programs that
// ignore signals.
func TestSystemd(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "systemd", "--memory", "1G")
	h.booted(t, vm.Name)
	docker(t, h, vm)
	for range rounds(t, 1) {
		boot := h.bootID(t, vm.Name)
		h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "systemctl", "reboot")
		h.comesBack(t, vm.Name, boot)
		if now := h.show(t, vm.Name); now.Ending != banger.EndedReboot {
			t.Errorf("the last end is %s (%s), want reboot", now.Ending, now.EndingBy)
		}
		if strings.Contains(console(t, vm)+oldConsole(t, vm), "recovery complete") {
			t.Error("a journal was replayed")
		}
		h.booted(t, vm.Name)
		containerIsBack(t, h, vm)
	}
	h.sh(t, vm.Name, "docker rm -f keeps")
	softReboot(t, h, vm)
	stubborn(t, h, vm)
}

// comesBack waits until a VM that reboots by itself runs again.
func (h *home) comesBack(t *testing.T, name, boot string) {
	t.Helper()
	until(t, bootTime, "the reboot", func() bool {
		now := h.show(t, name)
		return now.State.Up() && now.BootID != "" && now.BootID != boot
	})
}

// softReboot restarts systemd without the machine: what the agent mounted is still
// mounted, from the disks.
func softReboot(t *testing.T, h *home, vm banger.VM) {
	boot := h.bootID(t, vm.Name)
	const mounts = "awk '$2 == \"/root\" || $2 ~ /^.var.lib.(docker|containerd|containers)$/ { print $1, $2, $3 }' /proc/mounts | sort -k 2"
	before := h.sh(t, vm.Name, "echo mine >/root/proof; echo mine >/var/lib/docker/proof; "+mounts)
	if strings.Count(before, " ext4") != 4 {
		t.Fatalf("these are mounted: %s", before)
	}
	h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "systemctl", "soft-reboot")
	until(t, bootTime, "the soft reboot", func() bool { // it ends every session
		return h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "sh", "-c", "test $(systemctl show -P SoftRebootsCount) = 1").code == 0
	})
	h.booted(t, vm.Name)
	if after := h.sh(t, vm.Name, mounts); after != before {
		t.Errorf("mounted before:\n%s\nafter:\n%s", before, after)
	}
	if got := h.sh(t, vm.Name, "cat /root/proof /var/lib/docker/proof"); got != "mine\nmine" {
		t.Errorf("after the soft reboot: %q", got)
	}
	if r := h.run(t.Context(), nil, "vm", "ssh", vm.Name, "--", "id -un"); r.stdout != "root\n" {
		t.Errorf("ssh: exit %d, %q %s", r.code, r.stdout, r.stderr)
	}
	if now := h.show(t, vm.Name); h.bootID(t, vm.Name) != boot || now.State != banger.Running || now.BootID != boot {
		t.Errorf("the boot id was %s: %+v", boot, now)
	}
}

// stubborn leaves programs behind that ignore signals, in a session of banger's and in
// one of the image's own sshd, and stops the VM. systemd would wait an hour for them:
// then the stop would run out of its grace time, and the init would not have ended the
// machine.
func stubborn(t *testing.T, h *home, vm banger.VM) {
	h.sh(t, vm.Name, `mkdir -p /run/systemd/system.conf.d && printf '[Manager]\nDefaultTimeoutStopSec=1h\n' >/run/systemd/system.conf.d/slow.conf &&
systemctl daemon-reload && test "$(systemctl show -P DefaultTimeoutStopUSec)" = 1h`)
	const deaf = `trap "" TERM HUP INT; while :; do sleep 1000 & wait; done`
	h.sh(t, vm.Name, "setsid sh -c '"+deaf+"' >/dev/null 2>&1 </dev/null &")
	h.sh(t, vm.Name, `mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id; cat /root/.ssh/id.pub >>/root/.ssh/authorized_keys
ssh -i /root/.ssh/id -o StrictHostKeyChecking=accept-new localhost "setsid sh -c '`+strings.ReplaceAll(deaf, `"`, `\"`)+`' >/dev/null 2>&1 </dev/null & cat /proc/self/cgroup" >/tmp/group`)
	if group := h.sh(t, vm.Name, "cat /tmp/group"); !strings.Contains(group, "/session-") {
		t.Fatalf("sshd's session is in %q", group)
	}
	if n := h.sh(t, vm.Name, "pgrep -fc '^sh -c trap'"); n != "2" {
		t.Fatalf("%s programs run", n)
	}
	h.stopped(t, vm)
}

// earlyFile writes to /tmp before systemd has mounted anything, and checks that the file
// is still there afterwards.
func earlyFile(t *testing.T, h *home, name string) {
	h.sh(t, name, "echo early >/tmp/early")
	if vms := h.list(t.Context()); !slices.ContainsFunc(vms, func(vm banger.VM) bool { return vm.Name == name && vm.State == banger.Booting }) {
		t.Errorf("it is not listed as booting: %+v", vms)
	}
	h.booted(t, name)
	if now := h.show(t, name); now.State != banger.Running {
		t.Errorf("it is %s after its boot", now.State)
	}
	got := h.sh(t, name, "cat /tmp/early; findmnt -no FSTYPE /tmp; systemctl is-active tmp.mount; findmnt -no OPTIONS /tmp")
	if !strings.HasPrefix(got, "early\ntmpfs\nactive\n") {
		t.Errorf("got %q", got)
	}
	t.Log(got)
}

func console(t *testing.T, vm banger.VM) string    { return read(t, config.VMDir(vm.Dir).Console()) }
func oldConsole(t *testing.T, vm banger.VM) string { return read(t, config.VMDir(vm.Dir).OldConsole()) }

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
