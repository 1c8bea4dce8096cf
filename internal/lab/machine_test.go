//go:build vm

package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"banger"
	"banger/internal/config"
	"banger/internal/vmm/firecracker"
)

// TestData: what is written in a VM stays and is not in another VM, and the image does
// not change.
func TestData(t *testing.T) {
	t.Parallel()
	h := shared
	one := h.create(t, "--name", "data-one", "--disk-size", "2G", "--overlay-size", "2G")
	base := digest(t, config.VMDir(one.Dir).Base())
	if want := string(one.ImageID); want != "sha256:"+base {
		t.Errorf("the base image is %s, the VM is pinned to %s", base, want)
	}
	first := h.bootID(t, one.Name)
	h.sh(t, one.Name, `echo mine >/root/proof; echo mine >/etc/proof; rm -r /usr/share/perl5 /etc/motd; mv /usr/share/doc /usr/share/papers; ln -s /nowhere /root/link`)

	t.Run("where changes live", func(t *testing.T) {
		if got := h.sh(t, one.Name, "findmnt -no FSTYPE / ; findmnt -no FSTYPE /root; findmnt -no FSTYPE /var/lib/docker"); got != "overlay\next4\next4" {
			t.Errorf("file systems of /, /root and /var/lib/docker: %q", got)
		}
		if got := h.sh(t, one.Name, "hostname; id -un; pwd"); got != "data-one\nroot\n/root" {
			t.Errorf("identity: %q", got)
		}
	})
	h.banger(t, "vm", "stop", one.Name)
	stopped := h.show(t, one.Name)
	if stopped.State != banger.Stopped || stopped.Ending != banger.EndedPoweroff {
		t.Errorf("after the stop: %s, %s %s", stopped.State, stopped.Ending, stopped.EndingBy)
	}
	cleanVM(t, one)
	h.banger(t, "vm", "start", one.Name)
	if second := h.bootID(t, one.Name); second == first {
		t.Errorf("the boot id is still %s", first)
	}
	if got := h.sh(t, one.Name, `cat /root/proof /etc/proof; readlink /root/link; ls -d /usr/share/papers; ls -d /usr/share/perl5 /etc/motd 2>/dev/null; true`); got != "mine\nmine\n/nowhere\n/usr/share/papers" {
		t.Errorf("after the restart: %q", got)
	}

	two := h.create(t, "--name", "data-two", "--disk-size", "2G", "--overlay-size", "2G")
	if got := h.sh(t, two.Name, `ls -d /root/proof /etc/proof /usr/share/papers 2>/dev/null; ls -d /usr/share/doc; cat /etc/machine-id`); !strings.HasPrefix(got, "/usr/share/doc\n") {
		t.Errorf("the second VM sees the first one's changes: %q", got)
	} else if got == "/usr/share/doc\n"+h.sh(t, one.Name, "cat /etc/machine-id") {
		t.Error("both VMs have one machine-id")
	}
	h.banger(t, "vm", "stop", one.Name, two.Name)
	cleanVM(t, one)
	cleanVM(t, two)
	if after := digest(t, config.VMDir(one.Dir).Base()); after != base {
		t.Errorf("the base image changed from %s to %s", base, after)
	}
}

func digest(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// TestExec tests programs in a VM: their arguments, input, output and exit status.
func TestExec(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "exec", "--image", h.tiny(t))
	ctx := t.Context()

	t.Run("arguments arrive as sent", func(t *testing.T) {
		args := []string{"", "a b", `"quoted" 'twice'`, "two\nlines", "$HOME `id` \\ *", "-n", "--", "\xff\xfe bytes"}
		r := h.run(ctx, nil, append([]string{"vm", "exec", vm.Name, "--", "/bin/printf", `<%s>\0`}, args...)...)
		if want := "<" + strings.Join(args, ">\x00<") + ">\x00"; r.stdout != want {
			t.Errorf("got %q, want %q (%s)", r.stdout, want, r.stderr)
		}
	})
	t.Run("exit status", func(t *testing.T) {
		for _, c := range []struct {
			args []string
			want int
		}{
			{[]string{vm.Name, "--", "sh", "-c", "exit 7"}, 7},
			{[]string{vm.Name, "--", "sh", "-c", "kill -9 $$"}, 128 + 9},
			{[]string{vm.Name, "--", "no-such-program"}, 127},
			{[]string{vm.Name, "--", "/etc"}, 126},
			{[]string{"no-such-vm", "--", "true"}, 125},
		} {
			if r := h.run(ctx, nil, append([]string{"vm", "exec"}, c.args...)...); r.code != c.want {
				t.Errorf("exec %q: exit %d, want %d (%s)", c.args, r.code, c.want, r.stderr)
			}
		}
		if r := h.run(ctx, nil, "vm", "ssh", vm.Name, "--", "exit 9"); r.code != 9 {
			t.Errorf("ssh: exit %d, want 9 (%s)", r.code, r.stderr)
		}
	})
	t.Run("input, output and surroundings", func(t *testing.T) {
		big := strings.Repeat("0123456789abcdef\n", 40000)
		if r := h.run(ctx, []byte(big), "vm", "exec", vm.Name, "--", "sh", "-c", "cat; echo done >&2"); r.stdout != big || r.stderr != "done\n" {
			t.Errorf("%d bytes came back of %d, stderr %q", len(r.stdout), len(big), r.stderr)
		}
		got := h.banger(t, "vm", "exec", "--user", "nobody", "--workdir", "/tmp", "--env", "A=b c", vm.Name, "--", "sh", "-c", `id -un; pwd; echo "$A"`)
		if got != "nobody\n/tmp\nb c\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("an input that nobody reads, or that stays open", func(t *testing.T) {
		if r := h.run(ctx, make([]byte, 9<<20), "vm", "exec", vm.Name, "--", "echo", "unread"); r.code != 0 || r.stdout != "unread\n" {
			t.Errorf("exit %d, %q: %s", r.code, r.stdout, r.stderr)
		}
		cmd := h.command(ctx, "vm", "exec", vm.Name, "--", "echo", "open")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if out, err := cmd.Output(); err != nil || string(out) != "open\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("a client that is killed ends its program", func(t *testing.T) {
		cmd := h.command(ctx, "vm", "exec", vm.Name, "--", "sh", "-c", "echo ready; sleep 4711")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		out.Read(make([]byte, 16))
		cmd.Process.Kill()
		cmd.Wait()
		h.inGuest(t, vm.Name, "! ps | grep -q '[s]leep 4711'")
	})
	t.Run("limits of open files are those of a login", func(t *testing.T) {
		if got := h.sh(t, vm.Name, "ulimit -Sn; ulimit -Hn"); got != "1024\n524288" {
			t.Errorf("got %q", got)
		}
		// The server's own limits: its parent starts it with the same.
		if got := h.sh(t, vm.Name, `grep -h "Max open files" /proc/$PPID/limits`); strings.Count(got, " 52428") != 2 {
			t.Errorf("the server has %q", got)
		}
	})
	t.Run("a kernel that shall not use cmpxchg16b does not", func(t *testing.T) {
		if line := h.sh(t, vm.Name, "cat /proc/cmdline"); !strings.Contains(line, " clearcpuid=141") {
			t.Log("this VMM's CPU does it right")
			return
		}
		if got := h.sh(t, vm.Name, "grep -c ' cx16 ' /proc/cpuinfo || true"); got != "0" {
			t.Errorf("cx16 is a feature of %q of its CPUs", got)
		}
	})
	t.Run("Ctrl-C reaches the program", func(t *testing.T) {
		cmd := h.command(ctx, "vm", "exec", vm.Name, "--", "sh", "-c", `trap 'echo caught; exit 42' INT; echo ready; while :; do sleep 0.1; done`)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, _ := out.Read(buf)
		if string(buf[:n]) != "ready\n" {
			t.Fatalf("got %q", buf[:n])
		}
		cmd.Process.Signal(os.Interrupt)
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		if string(rest) != "caught\n" || cmd.ProcessState.ExitCode() != 42 {
			t.Errorf("got %q, exit %d", rest, cmd.ProcessState.ExitCode())
		}
	})
	t.Run("a terminal", func(t *testing.T) {
		terminal, err := pty.StartWithSize(h.command(ctx, "vm", "exec", "-t", vm.Name, "--", "sh", "-c", "tty; stty size"), &pty.Winsize{Cols: 101, Rows: 33})
		if err != nil {
			t.Fatal(err)
		}
		defer terminal.Close()
		got, _ := io.ReadAll(terminal) // ends with EIO when the other end is closed
		if !strings.HasPrefix(string(got), "/dev/pts/") || !strings.Contains(string(got), "33 101") {
			t.Errorf("got %q", got)
		}
	})
}

// TestKilledVMM: killing the VMM is a power cut for the guest, and synced data is there.
func TestKilledVMM(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "power-cut", "--image", h.tiny(t))
	boot := h.bootID(t, vm.Name)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := h.command(ctx, "vm", "exec", vm.Name, "--", "sh", "-c",
		`i=0; while :; do i=$((i+1)); echo $i >/root/n; sync /root/n; echo $i >/etc/n; sync /etc/n; echo $i; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := ""
	buf := make([]byte, 4096)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Fields(string(buf[:n]))
		told = lines[len(lines)-1]
	}
	if err := syscall.Kill(h.vmm(t, vm.Name), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.startsAnew(t, vm.Name, boot, banger.EndedVMMDied, "SIGKILL") // at once, maybe before the daemon has noticed
	cmd.Wait()
	for _, file := range []string{"/root/n", "/etc/n"} {
		got := h.sh(t, vm.Name, "cat "+file)
		if number(t, got) < number(t, told) {
			t.Errorf("%s holds %q, the guest had synced %q", file, got, told)
		}
	}
	if err := syscall.Kill(h.vmm(t, vm.Name), syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	crash := "SIGSEGV"
	if vm.Driver == firecracker.Name { // it catches the signal, logs it, and exits with a status
		crash = "signal 11"
	}
	ended(t, h.ended(t, vm.Name), banger.EndedVMMDied, crash)
	h.banger(t, "vm", "start", vm.Name)
	starved(t, h, vm)
	h.banger(t, "vm", "stop", vm.Name)
	cleanVM(t, vm)
}

// startsAnew starts a VM that is just ending: a start does not mistake it for a running
// one. It checks how the VM ended, and that another boot runs.
func (h *home) startsAnew(t *testing.T, name, boot string, want banger.Ending, detail string) {
	t.Helper()
	h.banger(t, "vm", "start", name)
	now := h.show(t, name)
	if !now.State.Up() || now.Ending != want || !strings.Contains(now.EndingBy, detail) {
		t.Errorf("it is %s, ended %s (%s), want %s (%s)", now.State, now.Ending, now.EndingBy, want, detail)
	}
	if again := h.bootID(t, name); again == boot || again != now.BootID {
		t.Errorf("the boot id was %s, is %s, and %s is shown", boot, again, now.BootID)
	}
}

// starved has the kernel kill the VMM for lack of memory, if systemd has given it a
// control group. The VM runs again when it returns.
func starved(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	pid := h.vmm(t, vm.Name)
	ownGroup(t, h, pid)
	bound := groupOf(t, pid) + "/memory.max"
	if !strings.HasSuffix(groupOf(t, pid), ".scope") {
		t.Log("no systemd gives a VMM a control group here, so none is starved")
		return
	}
	if err := os.WriteFile(bound, []byte("16M"), 0); err != nil {
		t.Fatal(err)
	}
	until(t, time.Minute, "the end for lack of memory", func() bool { return h.show(t, vm.Name).State == banger.Stopped })
	if now := h.show(t, vm.Name); now.Ending != banger.EndedVMMDied || !strings.Contains(now.EndingBy, "ran out of memory") {
		t.Errorf("the last end is %s %q", now.Ending, now.EndingBy)
	}
	h.banger(t, "vm", "start", vm.Name)
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFullDisk: a full work disk is an error in the guest, and the VM continues.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "full", "--image", h.tiny(t), "--disk-size", "64M", "--overlay-size", "256M")
	r := h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "dd", "if=/dev/zero", "of=/root/fill", "bs=1M", "count=128")
	if r.code != 1 || !strings.Contains(r.stderr, "No space left on device") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	h.banger(t, "vm", "restart", vm.Name)
	h.sh(t, vm.Name, "rm /root/fill; echo fits >/root/proof; echo mine >/etc/proof; sync")
	t.Run("a file system with errors", func(t *testing.T) { failing(t, h, vm) })
	t.Run("a damaged disk", func(t *testing.T) { damaged(t, h, vm) })
	h.banger(t, "vm", "stop", vm.Name)
	cleanVM(t, vm)
}

// failing has the guest's kernel find an error on the work disk of a VM that runs. It is
// shown at once, the run does not end cleanly, and the next start checks the disk.
func failing(t *testing.T, h *home, vm banger.VM) {
	h.sh(t, vm.Name, `d=$(awk '$2 == "/root" { sub("/dev/", "", $1); print $1 }' /proc/mounts); echo broken >/sys/fs/ext4/$d/trigger_fs_error`)
	until(t, time.Minute, "the problem", func() bool { return len(h.show(t, vm.Name).Problems) > 0 })
	if p := h.show(t, vm.Name).Problems[0]; p.Disk != "work" || p.Fix == "" {
		t.Errorf("the problem is %+v", p)
	}
	if list := h.banger(t, "vm", "list"); !strings.Contains(list, vm.Name+" ") || !strings.Contains(list, "(disk errors)") {
		t.Errorf("it is listed as %s", list)
	}
	if log := read(t, h.dirs.Log()); !strings.Contains(log, `"a disk has errors: the disks are checked before the next start","vm":"`+vm.Name+`"`) {
		t.Errorf("the log does not say so:\n%s", log)
	}
	if r := h.run(t.Context(), nil, "vm", "stop", vm.Name); !strings.Contains(r.stdout+r.stderr, "not cleanly") {
		t.Errorf("a stop: exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	ended(t, h.show(t, vm.Name), banger.EndedUnclean, "the file system on the work disk has ")
	if r := h.run(t.Context(), nil, "vm", "start", vm.Name); r.code != 0 || !strings.Contains(r.stderr, "note: "+vm.Name+": the file system on the work disk has ") {
		t.Errorf("the next start: exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	if got := h.sh(t, vm.Name, "cat /root/proof; echo again >/root/again && echo writable"); got != "fits\nwritable" {
		t.Errorf("after the check: %q", got)
	}
}

// damaged destroys the first superblock of a VM's overlay disk, which has another one.
func damaged(t *testing.T, h *home, vm banger.VM) {
	h.banger(t, "vm", "stop", vm.Name)
	disk, err := os.OpenFile(config.VMDir(vm.Dir).Overlay(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = disk.WriteAt(make([]byte, 4096), 0)
	if err := errors.Join(err, disk.Close()); err != nil {
		t.Fatal(err)
	}
	if r := h.run(t.Context(), nil, "vm", "start", vm.Name); r.code != 4 || !strings.Contains(r.stderr, "the overlay disk is damaged: ") || !strings.Contains(r.stderr, "\nfix: banger vm fsck "+vm.Name+"\n") {
		t.Errorf("a start: exit %d, %s", r.code, r.stderr)
	}
	if got := h.banger(t, "vm", "fsck", "--yes", vm.Name); !strings.HasPrefix(got, vm.Name+": overlay disk repaired, work disk clean\n") {
		t.Errorf("the repair: %s", got)
	}
	h.banger(t, "vm", "start", vm.Name)
	if got := h.sh(t, vm.Name, "cat /etc/proof /root/proof"); got != "mine\nfits" {
		t.Errorf("after the repair: %q", got)
	}
}

// TestBadStarts: a VM that cannot boot is an error within a bounded time, and leaves
// nothing behind.
func TestBadStarts(t *testing.T) {
	t.Parallel()
	h := own(t)
	vm := h.create(t, "--name", "broken", "--image", h.tiny(t), "--no-start")
	dir := config.VMDir(vm.Dir)
	fails := func(t *testing.T, code int, want string, args ...string) {
		t.Helper()
		begun := time.Now()
		r := h.run(t.Context(), nil, args...)
		t.Logf("%.1fs: %s", time.Since(begun).Seconds(), r.stderr)
		if r.code != code || !strings.Contains(r.stderr, want) || !strings.Contains(r.stderr, "\nfix: ") {
			t.Errorf("exit %d, want %d, %q and a fix:\n%s", r.code, code, want, r.stderr)
		}
		if now := h.show(t, vm.Name); now.State != banger.Stopped || now.PID != 0 {
			t.Errorf("the VM is %s, pid %d", now.State, now.PID)
		}
		for _, name := range []string{dir.Initrd(), dir.Boot()} {
			if _, err := os.Stat(name); err == nil {
				t.Errorf("%s is left behind", name)
			}
		}
	}
	swap := func(t *testing.T, path string, content []byte) {
		t.Helper()
		kept := path + ".kept"
		if err := os.Rename(path, kept); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(kept)
		if err != nil {
			t.Fatal(err)
		}
		// The VMM may not run as root.
		if err := errors.Join(os.WriteFile(path, content, 0o600), os.Chmod(path, info.Mode())); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Rename(kept, path) })
	}
	t.Run("a broken image", func(t *testing.T) {
		swap(t, dir.Base(), make([]byte, 1<<20))
		fails(t, 5, "banger-base", "vm", "start", vm.Name)
	})
	t.Run("a lost disk", func(t *testing.T) {
		os.Rename(dir.Work(), dir.Work()+".kept")
		defer os.Rename(dir.Work()+".kept", dir.Work())
		fails(t, 5, "work.ext4", "vm", "start", vm.Name)
	})
	t.Run("a kernel that is none", func(t *testing.T) {
		swap(t, dir.Kernel(), []byte("not a kernel"))
		fails(t, 5, "launch ", "vm", "start", vm.Name)
	})
	h.banger(t, "vm", "start", vm.Name)
	h.banger(t, "vm", "stop", "--force", vm.Name)
	initrds, err := filepath.Glob(h.dirs.Initrds() + "/*.cpio") // made by the boot
	if err != nil || len(initrds) != 1 {
		t.Fatalf("%v, %v", initrds, err)
	}
	t.Run("a kernel that panics", func(t *testing.T) {
		swap(t, initrds[0], nil)
		fails(t, 1, "kernel panic", "vm", "start", vm.Name)
	})
	t.Run("an agent that does not answer", func(t *testing.T) {
		begun := time.Now()
		fails(t, 1, "did not answer within 1s", "vm", "start", "--timeout", "1s", vm.Name)
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("a create that does not boot leaves its console", func(t *testing.T) {
		swap(t, initrds[0], nil)
		r := h.run(t.Context(), nil, "vm", "create", "--name", "stillborn")
		kept := h.dirs.FailedConsole("stillborn")
		if r.code != 1 || !strings.Contains(r.stderr, "kernel panic") || !strings.Contains(r.stderr, "fix: less "+kept) {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
		if r := h.run(t.Context(), nil, "vm", "show", "stillborn"); r.code != 3 {
			t.Errorf("the VM is still there: %s", r.stdout)
		}
	})
	h.banger(t, "vm", "start", vm.Name)
	h.banger(t, "vm", "stop", vm.Name)
	cleanVM(t, vm)
}
