//go:build vm

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/vmm"
)

// TestDaemonDies: VMs keep running, whenever the daemon ends.
func TestDaemonDies(t *testing.T) {
	t.Parallel()
	h := own(t)
	vm := h.create(t, "--name", "survivor", "--image", h.tiny(t))
	boot, pid := h.bootID(t, vm.Name), h.show(t, vm.Name).PID

	t.Run("killed while the VM runs", func(t *testing.T) {
		h.killDaemon(t)
		if again := h.bootID(t, vm.Name); again != boot {
			t.Errorf("the boot id was %s, is %s", boot, again)
		}
		if now := h.show(t, vm.Name); now.PID != pid || now.State != banger.Running || now.BootID != boot {
			t.Errorf("after adoption: %+v", now)
		}
	})
	t.Run("stopped while the VM runs", func(t *testing.T) {
		h.banger(t, "daemon", "stop")
		if again := h.bootID(t, vm.Name); again != boot {
			t.Errorf("the boot id was %s, is %s", boot, again)
		}
	})
	t.Run("a shell without XDG_RUNTIME_DIR finds the same one", func(t *testing.T) {
		cmd := h.command(t.Context(), "daemon", "status", "--json")
		cmd.Env = nil
		for _, kv := range h.env {
			if !strings.HasPrefix(kv, "XDG_RUNTIME_DIR=") {
				cmd.Env = append(cmd.Env, kv)
			}
		}
		out, err := cmd.Output()
		if want := fmt.Sprintf(`"pid": %d`, h.daemonPID(t.Context())); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("got %s, %v; want %s", out, err, want)
		}
	})
	t.Run("a second daemon is refused", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(h.bin, "bangerd"))
		cmd.Env = h.env
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), fmt.Sprint(h.daemonPID(t.Context()))) {
			t.Errorf("got %v: %s", err, out)
		}
	})
	t.Run("killed while the VM stops", func(t *testing.T) {
		// A program that has to be killed makes the stop slow.
		h.sh(t, vm.Name, `(trap "" TERM HUP INT; while :; do sleep 1000; done) >/dev/null 2>&1 </dev/null &`)
		asked := h.command(t.Context(), "vm", "stop", vm.Name)
		if err := asked.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, time.Minute, "the stop's begin", func() bool { return h.show(t, vm.Name).State == banger.Stopping })
		h.killDaemon(t)
		asked.Wait()
		until(t, bootTime, "the end", func() bool { return h.show(t, vm.Name).State == banger.Stopped })
		if now := h.show(t, vm.Name); now.Ending != banger.EndedPoweroff {
			t.Errorf("the last end is %s %s, want poweroff", now.Ending, now.EndingBy)
		}
		cleanVM(t, vm)
	})
	t.Run("dead when the guest reboots", func(t *testing.T) {
		h.banger(t, "vm", "start", vm.Name)
		boot := h.bootID(t, vm.Name)
		pid := h.vmm(t, vm.Name)
		h.sh(t, vm.Name, "(sleep 3; reboot) >/dev/null 2>&1 </dev/null &")
		h.killDaemon(t)
		if err := gone(pid, bootTime); err != nil {
			t.Fatal(err)
		}
		until(t, bootTime, "the way back", func() bool {
			now := h.show(t, vm.Name)
			return now.State.Up() && now.BootID != "" && now.BootID != boot
		})
	})
	t.Run("dead when the VMM is killed", func(t *testing.T) {
		pid := h.vmm(t, vm.Name)
		h.killDaemon(t)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := gone(pid, time.Minute); err != nil {
			t.Fatal(err)
		}
		ended(t, h.show(t, vm.Name), banger.EndedVMMDied, "was killed while no daemon ran")
	})
	t.Run("started by a shell with limits", func(t *testing.T) {
		h.banger(t, "daemon", "stop")
		shell := exec.CommandContext(t.Context(), "bash", "-c", `ulimit -Sf 102400; umask 0; exec nice -n 19 "$0" "$@"`, filepath.Join(h.bin, "banger"), "vm", "start", vm.Name)
		shell.Env = h.env
		if out, err := shell.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		h.sh(t, vm.Name, "dd if=/dev/zero of=/root/big bs=1M count=110 && sync /root/big && rm /root/big")
		pid := h.vmm(t, vm.Name)
		for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/limits", pid))) {
			if rest, ours := strings.CutPrefix(line, "Max file size"); ours && !strings.HasPrefix(strings.TrimSpace(rest), "unlimited") {
				t.Error(line)
			}
		}
		if nice, err := syscall.Getpriority(syscall.PRIO_PROCESS, pid); err != nil || 20-nice != 0 {
			t.Errorf("its niceness is %d, %v", 20-nice, err)
		}
		if p := h.show(t, vm.Name).Problems; len(p) != 0 {
			t.Errorf("problems: %+v", p)
		}
		h.stopped(t, vm)
	})
}

// TestDisksOpenOnce: two VMMs never have a VM's disks open, whatever starts twice or
// dies meanwhile.
func TestDisksOpenOnce(t *testing.T) {
	t.Parallel()
	h := own(t)
	vm := h.create(t, "--name", "once", "--image", h.tiny(t), "--no-start")
	dir := config.VMDir(vm.Dir)

	t.Run("two starts at once", func(t *testing.T) {
		var both sync.WaitGroup
		results := make([]result, 2)
		for i := range results {
			both.Go(func() { results[i] = h.run(t.Context(), nil, "vm", "start", vm.Name) })
		}
		both.Wait()
		for _, r := range results {
			if r.code != 0 {
				t.Errorf("exit %d: %s", r.code, r.stderr)
			}
		}
		onlyOpener(t, dir, h.show(t, vm.Name).PID)
		h.banger(t, "vm", "stop", "--force", vm.Name)
	})
	t.Run("daemon killed at moments of a start", func(t *testing.T) {
		for _, after := range []time.Duration{5, 20, 50, 100, 200, 400, 1000} {
			after *= time.Millisecond
			h.banger(t, "daemon", "status") // it runs
			asked := h.command(t.Context(), "vm", "start", vm.Name)
			if err := asked.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after) // the moment is the point of the test
			h.killDaemon(t)
			asked.Wait()
			locked, err := vmm.Locked(dir.Lock())
			if err != nil {
				t.Fatal(err)
			}
			h.banger(t, "vm", "start", vm.Name) // by the next daemon
			pid := h.show(t, vm.Name).PID
			t.Logf("killed after %v: locked %v, VMM %d", after, locked, pid)
			onlyOpener(t, dir, pid)
			h.sh(t, vm.Name, "true")
			h.banger(t, "vm", "stop", "--force", vm.Name)
		}
	})
	t.Run("a lock held by a stranger", func(t *testing.T) {
		lock, err := vmm.Lock(dir.Lock())
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if r := h.run(t.Context(), nil, "vm", "start", vm.Name); r.code != 4 {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
	})
}

// onlyOpener checks that pid, and no other process, has the VM's overlay open.
func onlyOpener(t *testing.T, dir config.VMDir, pid int) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, link := range links {
		if target, _ := os.Readlink(link); target == dir.Overlay() {
			if opener := strings.Split(link, "/")[2]; opener != fmt.Sprint(pid) {
				t.Errorf("process %s has %s open, the VMM is %d", opener, target, pid)
			}
			found = true
		}
	}
	if !found {
		t.Errorf("nobody has %s open", dir.Overlay())
	}
}

// TestCheckoutVanishes: a VM does not need the directory that it was created from.
func TestCheckoutVanishes(t *testing.T) {
	t.Parallel()
	tree := t.TempDir()
	for _, name := range []string{"banger", "bangerd", "banger-agent"} {
		copyFile(t, filepath.Join(shared.bin, name), filepath.Join(tree, name))
	}
	// Hard links: they prove as much as a copy.
	if out, err := exec.Command("cp", "-al", filepath.Join(shared.bin, "runtime"), tree).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h := newHome(t.TempDir(), tree)
	h.tearDownAfter(t)
	vm := h.create(t, "--name", "keeper")
	boot := h.bootID(t, vm.Name)
	h.sh(t, vm.Name, "echo kept >/root/proof; sync")
	if err := os.RemoveAll(tree); err != nil {
		t.Fatal(err)
	}
	h.bin = shared.bin // built again, elsewhere
	if again := h.bootID(t, vm.Name); again != boot {
		t.Errorf("the boot id was %s, is %s", boot, again)
	}
	h.killDaemon(t)
	bare := t.TempDir() // programs without a runtime beside them
	for _, name := range []string{"banger", "bangerd", "banger-agent"} {
		copyFile(t, filepath.Join(shared.bin, name), filepath.Join(bare, name))
	}
	h.bin = bare
	h.banger(t, "vm", "restart", vm.Name)
	if got := h.sh(t, vm.Name, "cat /root/proof"); got != "kept" {
		t.Errorf("got %q", got)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}
