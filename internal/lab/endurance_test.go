//go:build vm

package lab

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/vmm"
	"banger/internal/vmm/firecracker"
	"banger/internal/vmm/process"
)

// TestManyVMs runs VMs one after the other, and several at once. None leaves anything
// behind.
func TestManyVMs(t *testing.T) {
	t.Parallel()
	h := own(t)
	tiny := h.tiny(t)
	for i := range rounds(t, 3) {
		name := fmt.Sprint("row-", i)
		h.banger(t, "vm", "create", "--name", name, "--image", tiny)
		if got := h.sh(t, name, "hostname"); got != name {
			t.Errorf("%s says it is %s", name, got)
		}
		pid := h.vmm(t, name)
		ownGroup(t, h, pid)
		group := groupOf(t, pid)
		h.banger(t, "vm", "delete", "--force", "--yes", name)
		h.nothingLeft(t, group)
	}
	const atOnce = 5
	told := h.wholeLives(t, "side-0", "side-1")
	names, groups := make([]string, atOnce), make([]string, atOnce)
	var all sync.WaitGroup
	for i := range names {
		names[i] = fmt.Sprint("side-", i)
		all.Go(func() {
			if r := h.run(t.Context(), nil, "vm", "create", "--name", names[i], "--image", tiny); r.code != 0 {
				t.Errorf("create %s: exit %d: %s", names[i], r.code, r.stderr)
			}
		})
	}
	all.Wait()
	pids := map[int]bool{}
	for i, name := range names {
		if got := h.sh(t, name, "hostname"); got != name {
			t.Errorf("%s says it is %s", name, got)
		}
		pid := h.vmm(t, name)
		ownGroup(t, h, pid)
		pids[pid], groups[i] = true, groupOf(t, pid)
	}
	if len(pids) != atOnce {
		t.Errorf("%d VMs have %d VMMs", atOnce, len(pids))
	}
	for _, name := range names[:2] {
		boot := h.bootID(t, name)
		h.run(t.Context(), nil, "vm", "exec", name, "--", "reboot")
		h.comesBack(t, name, boot)
	}
	h.banger(t, append([]string{"vm", "stop"}, names...)...)
	for _, name := range names {
		ended(t, h.show(t, name), banger.EndedPoweroff, "")
	}
	h.banger(t, "vm", "delete", "--yes", "--all")
	h.nothingLeft(t, groups...)
	told()
}

// groupOf returns the directory of a process's control group, or an empty string without
// cgroup v2.
func groupOf(t *testing.T, pid int) string {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/cgroup", pid))) {
		if path, ours := strings.CutPrefix(strings.TrimSpace(line), "0::"); ours {
			return filepath.Join("/sys/fs/cgroup", path)
		}
	}
	return ""
}

// ownGroup checks that a VMM has a control group of its own, or the daemon's where no
// systemd makes one.
func ownGroup(t *testing.T, h *home, pid int) {
	t.Helper()
	socket := fmt.Sprintf("/run/user/%d/systemd/private", os.Getuid())
	if os.Getuid() == 0 {
		socket = "/run/systemd/private"
	}
	if _, err := os.Stat(socket); err != nil {
		if vmm, daemon := groupOf(t, pid), groupOf(t, h.daemonPID(t.Context())); vmm != daemon {
			t.Errorf("the VMM's group is %s, the daemon's %s", vmm, daemon)
		}
		return
	}
	until(t, time.Minute, "a control group of its own", func() bool { return strings.HasSuffix(groupOf(t, pid), fmt.Sprintf("-%d.scope", pid)) })
	if got := strings.TrimSpace(read(t, groupOf(t, pid)+"/cgroup.procs")); got != fmt.Sprint(pid) {
		t.Errorf("in the group of process %d are %q", pid, got)
	}
}

// nothingLeft checks that the VMs of a home have left no file, process or control group.
func (h *home) nothingLeft(t *testing.T, groups ...string) {
	t.Helper()
	var left []string
	for _, pattern := range []string{string(h.dirs.VMs()) + "/*", h.dir + "/run/*/*.sock_*", h.dir + "/run/*/*/*"} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	programs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range programs {
		if dir, _ := os.Readlink(link); strings.HasPrefix(dir, h.dirs.VMs()+"/") {
			left = append(left, link+" -> "+dir)
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	daemon := groupOf(t, h.daemonPID(t.Context()))
	for _, group := range groups {
		if group == daemon {
			continue
		}
		until(t, time.Minute, "the end of "+group, func() bool {
			_, err := os.Stat(group)
			return errors.Is(err, os.ErrNotExist)
		})
	}
}

// TestNobodyLooks: VMs end in different ways while no daemon runs. The next daemon
// reports each ending correctly, and a VM that runs is not disturbed.
func TestNobodyLooks(t *testing.T) {
	t.Parallel()
	h := own(t)
	tiny := h.tiny(t)
	names := []string{"stays", "halts", "off", "again", "panics"}
	boots, pids := map[string]string{}, map[string]int{}
	var halts banger.VM
	for _, name := range names {
		vm := h.create(t, "--name", name, "--image", tiny)
		if name == "halts" {
			halts = vm
		}
		boots[name], pids[name] = h.bootID(t, name), h.vmm(t, name)
	}
	session := h.command(t.Context(), "vm", "ssh", "stays", "--", "cat")
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(out)
	echo := func(word string) {
		t.Helper()
		fmt.Fprintln(in, word)
		if line, err := answers.ReadString('\n'); err != nil || line != word+"\n" {
			t.Errorf("the session answered %q, %v", line, err)
		}
	}
	echo("before")
	outlives := h.show(t, "stays").Driver == firecracker.Name // QEMU's streams go through the daemon
	// They act by themselves: without a daemon they cannot be reached.
	for name, act := range map[string]string{"halts": "halt -f", "off": "poweroff", "again": "reboot", "panics": "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"} {
		h.sh(t, name, fmt.Sprintf("(sleep %d; sync; %s) >/dev/null 2>&1 </dev/null &", 10*patience(t), act))
	}
	h.killDaemon(t)
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pids["off"])); err != nil {
		t.Fatal("the daemon was killed too late")
	}
	for _, name := range names[2:] {
		if err := gone(pids[name], bootTime); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	until(t, bootTime, "the halt", func() bool { return strings.Contains(read(t, h.dirs.VM(halts.ID).Console()), "reboot: System halted") })
	if outlives {
		echo("while nobody looks")
	}
	ended(t, h.show(t, "off"), banger.EndedPoweroff, "")
	ended(t, h.ended(t, "halts"), banger.EndedUnclean, "the guest halted without unmounting")
	ended(t, h.show(t, "panics"), banger.EndedCrashed, "kernel panic: ")
	h.comesBack(t, "again", boots["again"])
	if now := h.show(t, "again"); now.Ending != banger.EndedReboot {
		t.Errorf("the last end is %s (%s), want reboot", now.Ending, now.EndingBy)
	}
	if now := h.show(t, "stays"); now.State != banger.Running || now.PID != pids["stays"] || h.bootID(t, "stays") != boots["stays"] {
		t.Errorf("the survivor: %+v", now)
	}
	if outlives {
		echo("after")
	}
	in.Close()
	if err := session.Wait(); (err == nil) != outlives {
		t.Errorf("the session: %v", err)
	}
}

// TestKilledAtRandom kills daemon and VMM at random moments of create, start, stop and
// delete: no disk is open twice, synced data is there, and nothing is left behind.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	h := own(t)
	tiny := h.tiny(t)
	vm := h.create(t, "--name", "victim", "--image", tiny)
	dir := config.VMDir(vm.Dir)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("BANGER_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("BANGER_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	took := map[string]time.Duration{"start": 4 * time.Second, "stop": time.Second, "create": 4 * time.Second, "delete": 200 * time.Millisecond}
	for i := range rounds(t, 4) {
		h.sh(t, vm.Name, fmt.Sprintf("echo %d >/root/n; sync /root/n", i))
		for _, c := range []struct{ verb, name string }{{"stop", vm.Name}, {"start", vm.Name}, {"create", "extra"}, {"delete", "extra"}} {
			args := map[string][]string{"create": {"vm", "create", "--name", "extra", "--image", tiny}, "delete": {"vm", "delete", "--yes", "--force", "extra"}}[c.verb]
			if args == nil {
				args = []string{"vm", c.verb, c.name}
			}
			if c.verb == "start" {
				h.run(t.Context(), nil, "vm", "stop", "--force", c.name)
			}
			if c.verb == "delete" {
				h.run(t.Context(), nil, "vm", "create", "--name", "extra", "--image", tiny, "--no-start")
			}
			h.banger(t, "vm", "list") // a daemon runs
			daemon := h.daemonPID(t.Context())
			if daemon <= 1 { // 0 would signal this test, too
				t.Fatal("no daemon runs")
			}
			asked := h.command(t.Context(), args...)
			if err := asked.Start(); err != nil {
				t.Fatal(err)
			}
			moment := time.Duration(random.Int64N(int64(took[c.verb] * patience(t))))
			time.Sleep(moment) // the moment is the point of the test
			also := random.IntN(2) == 0
			if err := errors.Join(syscall.Kill(daemon, syscall.SIGKILL), gone(daemon, time.Minute)); err != nil {
				t.Fatal(err)
			}
			if also {
				killVMMs(t, h)
			}
			asked.Wait()
			t.Logf("%s, daemon killed after %v, its VMMs too: %v", c.verb, moment.Round(time.Millisecond), also)
			atMostOneOpener(t, dir)
		}
		h.banger(t, "vm", "list") // by a daemon that starts with what was left
		if r := h.run(t.Context(), nil, "vm", "delete", "--yes", "--force", "extra"); r.code != 0 && r.code != 3 {
			t.Errorf("delete: exit %d: %s", r.code, r.stderr)
		}
		h.run(t.Context(), nil, "vm", "start", vm.Name)
		if got := h.sh(t, vm.Name, "cat /root/n"); got != fmt.Sprint(i) {
			t.Errorf("the guest had synced %d, there is %q", i, got)
		}
		onlyOpener(t, dir, h.vmm(t, vm.Name))
		if left, _ := filepath.Glob(h.dirs.VMs() + "/*"); len(left) != 1 {
			t.Errorf("left behind: %q", left)
		}
	}
	h.stopped(t, vm)
	h.banger(t, "vm", "delete", "--yes", vm.Name)
	h.nothingLeft(t)
}

// killVMMs kills every VMM of a home, also one that has only just started.
func killVMMs(t *testing.T, h *home) {
	t.Helper()
	locks, _ := filepath.Glob(h.dirs.VMs() + "/*/" + filepath.Base(config.VMDir("").Lock()))
	for _, lock := range locks {
		proc, err := process.OpenHolder(lock)
		if errors.Is(err, vmm.ErrGone) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := proc.End(); err != nil {
			t.Error(err)
		}
	}
}

// atMostOneOpener checks that no two processes have the VM's overlay open.
func atMostOneOpener(t *testing.T, dir config.VMDir) {
	t.Helper()
	openers := map[string]bool{}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, _ := os.Readlink(link); target == dir.Overlay() {
			openers[strings.Split(link, "/")[2]] = true
		}
	}
	if len(openers) > 1 {
		t.Errorf("processes %v have %s open", openers, dir.Overlay())
	}
}

// TestFloodedConsole: a guest that writes to its console as fast as it can does not fill
// the disk, and does not slow other VMs down.
func TestFloodedConsole(t *testing.T) {
	t.Parallel()
	h := own(t)
	tiny := h.tiny(t)
	flood, other := h.create(t, "--name", "flood", "--image", tiny), h.create(t, "--name", "quiet", "--image", tiny)
	h.sh(t, flood.Name, `fill=$(printf '%0200d' 0); (i=0; while :; do i=$((i+1)); echo "line $i $fill"; done) >/dev/ttyS0 2>&1 </dev/null &`)
	dir := config.VMDir(flood.Dir)
	var most int64
	first := lastLine(t, dir.Console())
	for end := time.Now().Add(20 * time.Second * time.Duration(rounds(t, 1))); time.Now().Before(end); {
		var size int64
		for _, path := range []string{dir.Console(), dir.OldConsole(), flood.VMMLog} {
			var stat syscall.Stat_t
			if syscall.Stat(path, &stat) == nil {
				size += max(stat.Size, stat.Blocks*512)
			}
		}
		most = max(most, size)
		if r := h.run(t.Context(), nil, "vm", "exec", other.Name, "--", "echo", "fine"); r.stdout != "fine\n" {
			t.Errorf("the other VM says %q, %s", r.stdout, r.stderr)
		}
	}
	last := lastLine(t, dir.Console())
	t.Logf("lines %d to %d; console and log took %d KiB at most", first, last, most>>10)
	if last <= first {
		t.Error("the console stands still")
	}
	if most > 12<<20 {
		t.Errorf("its files took %d bytes", most)
	}
	h.stopped(t, flood)
}

// lastLine returns the number of the last whole line of a flooded console.
func lastLine(t *testing.T, path string) (n int) {
	t.Helper()
	for line := range strings.Lines(read(t, path)) {
		if _, rest, ours := strings.Cut(line, "line "); ours && strings.HasSuffix(line, "\n") {
			fmt.Sscan(rest, &n)
		}
	}
	return n
}
