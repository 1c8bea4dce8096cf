//go:build vm

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/vmm/firecracker"
)

// TestDaily tests the commands of a usual day.
func TestDaily(t *testing.T) {
	t.Parallel()
	h := own(t)
	ctx := t.Context()

	t.Run("run and throw away", func(t *testing.T) {
		r := h.run(ctx, nil, "vm", "run", "--rm", "--name", "brief", "--", "sh", "-c", "hostname; exit 3")
		if r.stdout != "brief\n" || r.code != 3 {
			t.Errorf("exit %d, %q: %s", r.code, r.stdout, r.stderr)
		}
		if r := h.run(ctx, nil, "vm", "show", "brief"); r.code != 3 {
			t.Errorf("it is still there: %s", r.stdout)
		}
	})
	vm := h.create(t, "--memory", "512")
	t.Run("a generated name and the sizes asked for", func(t *testing.T) {
		if err := banger.CheckName(vm.Name); err != nil || vm.Memory != 512*banger.MiB || vm.Disk != 16*banger.GiB {
			t.Errorf("%v: %+v", err, vm)
		}
	})
	t.Run("ssh by the user's own ssh", func(t *testing.T) {
		r := h.run(ctx, []byte("input"), "vm", "ssh", vm.Name, "--", "cat; echo ' $HOME='$HOME")
		if r.code != 0 || r.stdout != "input $HOME=/root\n" {
			t.Errorf("exit %d, %q: %s", r.code, r.stdout, r.stderr)
		}
	})
	t.Run("logs that follow", func(t *testing.T) {
		following, cancel := context.WithTimeout(ctx, bootTime)
		defer cancel()
		cmd := h.command(following, "vm", "logs", "-f", "--raw", vm.Name)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var seen strings.Builder
		buf := make([]byte, 4096)
		for i, word := range []string{"a word on the console", "a word of the next boot"} {
			if i > 0 {
				h.banger(t, "vm", "restart", vm.Name)
			}
			h.sh(t, vm.Name, "echo "+word+" >/dev/ttyS0")
			for !strings.Contains(seen.String(), word) {
				n, err := out.Read(buf)
				if err != nil {
					t.Fatalf("%v after %q", err, seen.String())
				}
				seen.Write(buf[:n])
			}
		}
		if strings.Count(seen.String(), wire.ConsoleBye) != 1 {
			t.Errorf("the first boot's end was not told once:\n%s", seen.String())
		}
		cmd.Process.Signal(os.Interrupt)
		io.Copy(io.Discard, out)
		cmd.Wait()
	})
	t.Run("list, status and what is private", func(t *testing.T) {
		var list []banger.VM
		if err := json.Unmarshal([]byte(h.banger(t, "vm", "list", "--json")), &list); err != nil || len(list) == 0 {
			t.Errorf("%v, %d VMs", err, len(list))
		}
		status := h.banger(t, "daemon", "status")
		for _, want := range []string{h.dirs.Log(), h.dirs.Socket()} {
			if !strings.Contains(status, want) {
				t.Errorf("%q does not tell %s", status, want)
			}
		}
		for _, path := range []string{vm.Dir, h.dirs.State, h.dirs.Socket(), h.dirs.DB(), h.dirs.Log(), vm.SSHKey, vm.Dir + "/overlay.ext4", vm.Console} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
				t.Errorf("%s is open to others: %v %v", path, info.Mode(), err)
			}
		}
	})
	t.Run("what is refused", func(t *testing.T) {
		for _, c := range []struct {
			code int
			want string
			args []string
		}{
			{2, "Bad_Name", []string{"vm", "create", "--name", "Bad_Name"}},
			{2, "1X", []string{"vm", "create", "--disk-size", "1X"}},
			{2, "--vcpu must be", []string{"vm", "create", "--vcpu", "1000"}},
			{2, "memory", []string{"vm", "create", "--memory", "1"}},
			{3, "no-such", []string{"vm", "create", "--image", "no-such"}},
			{4, vm.Name, []string{"vm", "create", "--name", vm.Name}},
			{4, "while it is ", []string{"vm", "delete", "--yes", vm.Name}},
			{3, "no-such", []string{"vm", "stop", "no-such"}},
		} {
			r := h.run(ctx, nil, c.args...)
			if r.code != c.code || !strings.Contains(r.stderr, c.want) || !strings.Contains(r.stderr, "fix: ") {
				t.Errorf("%q: exit %d, want %d with %q and a fix:\n%s", c.args, r.code, c.code, c.want, r.stderr)
			}
		}
		if n := len(h.list(ctx)); n != 1 {
			t.Errorf("there are %d VMs", n)
		}
	})
}

// TestChange changes a VM's settings: disks while it runs, the rest with a restart.
func TestChange(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "changing", "--image", h.tiny(t), "--disk-size", "1G", "--overlay-size", "1G")
	boot := h.bootID(t, vm.Name)
	h.banger(t, "vm", "set", "--disk-size", "3G", "--overlay-size", "2G", vm.Name)
	total := func(path string) int64 {
		t.Helper()
		var size int64
		if _, err := fmt.Sscan(h.sh(t, vm.Name, "df -kP "+path+" | awk 'END { print $2 * 1024 }'"), &size); err != nil {
			t.Fatal(err)
		}
		return size
	}
	for path, least := range map[string]banger.Size{"/root": 2900 * banger.MiB, "/": 1900 * banger.MiB, "/var/lib/docker": 1900 * banger.MiB} {
		if got := total(path); got < int64(least) {
			t.Errorf("%s has %d bytes after growing while it runs, want %v", path, got, least)
		}
	}
	if again := h.bootID(t, vm.Name); again != boot {
		t.Error("growing restarted the VM")
	}
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "cannot shrink", []string{"--disk-size", "1G"}},
		{4, "the maximum until it is restarted", []string{"--memory", "1300"}},
	} {
		r := h.run(t.Context(), nil, append(append([]string{"vm", "set"}, c.args...), vm.Name)...)
		if r.code != c.code || !strings.Contains(r.stderr, c.want) || !strings.Contains(r.stderr, "fix: ") {
			t.Errorf("%q: exit %d, want %d with %q and a fix:\n%s", c.args, r.code, c.code, c.want, r.stderr)
		}
	}
	low := func() string { return h.sh(t, vm.Name, "awk '/MemFree/ { print ($2 < 700 * 1024) }' /proc/meminfo") }
	h.banger(t, "vm", "set", "--memory", "700", vm.Name)
	until(t, time.Minute, "the guest's giving back", func() bool { return low() == "1" })
	if vm.Driver != firecracker.Name { // not every version reports it
		until(t, time.Minute, "the balloon's size", func() bool {
			return strings.Contains(h.banger(t, "vm", "stats", "--json", vm.Name), fmt.Sprintf(`"balloon_bytes": %d`, vm.Memory-700*banger.MiB))
		})
	}
	h.banger(t, "vm", "set", "--memory", strconv.Itoa(int(vm.Memory/banger.MiB)), vm.Name)
	until(t, time.Minute, "the guest's getting it back", func() bool { return low() == "0" })
	h.banger(t, "vm", "set", "--memory", "700", vm.Name)
	until(t, time.Minute, "the guest's giving back again", func() bool { return low() == "1" })
	if again := h.bootID(t, vm.Name); again != boot {
		t.Error("less memory restarted the VM")
	}
	h.banger(t, "vm", "set", "--apply", "--memory", "1300", vm.Name)
	if got := h.sh(t, vm.Name, "awk '/MemTotal/ { print ($2 > 1200000 && $2 < 1331200) }' /proc/meminfo"); got != "1" {
		t.Errorf("the guest's memory: %s", h.sh(t, vm.Name, "grep MemTotal /proc/meminfo"))
	}
	stats := h.banger(t, "vm", "stats", "--json", vm.Name)
	for _, want := range []string{`"/root"`, `"load`} {
		if !strings.Contains(stats, want) {
			t.Errorf("%s is not in %s", want, stats)
		}
	}
	h.banger(t, "vm", "rename", vm.Name, "changed")
	if got := h.sh(t, "changed", "hostname; cat /etc/hostname"); got != "changed\nchanged" {
		t.Errorf("the guest's name is %q", got)
	}
	h.banger(t, "vm", "kill", "--signal", "KILL", "changed")
	if now := h.show(t, "changed"); now.State != banger.Stopped || now.Ending != banger.EndedKilled {
		t.Errorf("it is %s, ended %s %s", now.State, now.Ending, now.EndingBy)
	}
	h.banger(t, "vm", "set", "--disk-size", "4G", "changed")
	h.banger(t, "vm", "start", "changed")
	vm.Name = "changed"
	if got := total("/root"); got < int64(3900*banger.MiB) {
		t.Errorf("/root has %d bytes after growing while it was stopped", got)
	}
	h.banger(t, "vm", "stop", "changed")
	cleanVM(t, vm)
	if vm.Driver == firecracker.Name { // QEMU runs wherever Firecracker does
		moves(t, h, vm)
	}
}

// moves moves a stopped VM to QEMU and back: its disks stay the same.
func moves(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	for _, driver := range []string{"qemu", firecracker.Name} {
		h.banger(t, "vm", "set", "--driver", driver, vm.Name)
		h.banger(t, "vm", "start", vm.Name)
		if now := h.show(t, vm.Name); now.Driver != driver {
			t.Errorf("it runs on %s, not on %s", now.Driver, driver)
		}
		h.sh(t, vm.Name, "echo "+driver+" >>/root/drivers; echo "+driver+" >>/etc/drivers")
		h.stopped(t, vm)
	}
	h.banger(t, "vm", "start", vm.Name)
	if got, want := h.sh(t, vm.Name, "cat /root/drivers /etc/drivers"), "qemu\nfirecracker\nqemu\nfirecracker"; got != want {
		t.Errorf("the disks hold %q, want %q", got, want)
	}
	h.stopped(t, vm)
}
