//go:build vm

package lab

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"banger"
)

// TestDaily is the rest of a day's commands.
func TestDaily(t *testing.T) {
	h := shared
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
		following, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		cmd := h.command(following, "vm", "logs", "-f", vm.Name)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		h.sh(t, vm.Name, "echo a word on the console >/dev/ttyS0")
		var seen strings.Builder
		buf := make([]byte, 4096)
		for !strings.Contains(seen.String(), "a word on the console") {
			n, err := out.Read(buf)
			if err != nil {
				t.Fatalf("%v after %q", err, seen.String())
			}
			seen.Write(buf[:n])
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
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
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
			{2, "vCPU", []string{"vm", "create", "--vcpu", "1000"}},
			{2, "memory", []string{"vm", "create", "--memory", "1"}},
			{3, "no-such", []string{"vm", "create", "--image", "no-such"}},
			{4, vm.Name, []string{"vm", "create", "--name", vm.Name}},
			{4, "running", []string{"vm", "delete", "--yes", vm.Name}},
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
