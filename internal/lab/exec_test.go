//go:build vm

package lab

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/guest"
	"banger/internal/guest/wire"
)

// TestExecWithoutLimits: what execve takes arrives, and many programs at once come through.
func TestExecWithoutLimits(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "limits", "--image", h.tiny(t))
	ctx := t.Context()
	long := strings.Repeat("y", 130_000)
	count := []string{"vm", "exec", vm.Name, "--", "sh", "-c", "echo $#", "-"}
	if r := h.run(ctx, nil, append(count, long, long)...); r.stdout != "2\n" {
		t.Errorf("two long arguments: exit %d, %.100q, %.200q", r.code, r.stdout, r.stderr)
	}
	var many []string
	for range 9 {
		many = append(many, long)
	}
	if r := h.run(ctx, nil, append(count, many...)...); r.stdout != "9\n" {
		t.Errorf("1.2 MB of arguments: exit %d, %.100q, %.200q", r.code, r.stdout, r.stderr)
	}
	if r := h.run(ctx, nil, "vm", "exec", "-e", "LONG="+long, vm.Name, "--", "sh", "-c", "echo ${#LONG}"); r.stdout != "130000\n" {
		t.Errorf("a long variable: exit %d, %.100q, %.200q", r.code, r.stdout, r.stderr)
	}
	begun := time.Now()
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			want := fmt.Sprint(i, "\n")
			if r := h.run(ctx, nil, "vm", "exec", vm.Name, "--", "echo", fmt.Sprint(i)); r.code != 0 || r.stdout != want {
				t.Errorf("program %d: exit %d, %q, %q", i, r.code, r.stdout, r.stderr)
			}
		})
	}
	all.Wait()
	t.Logf("200 programs at once took %v", time.Since(begun))
}

// TestExecEnds: exec ends with its program, and its status tells of any signal. What stays
// in the background continues.
func TestExecEnds(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "ends", "--image", h.tiny(t))
	ctx := t.Context()
	for _, script := range []string{"sleep 600 & echo started", "while :; do echo chatter; sleep 0.1; done & sleep 0.5"} {
		begun := time.Now()
		if r := h.run(ctx, nil, "vm", "exec", vm.Name, "--", "sh", "-c", script); r.code != 0 || time.Since(begun) > time.Minute {
			t.Errorf("%s: exit %d after %v: %q, %q", script, r.code, time.Since(begun), r.stdout, r.stderr)
		}
	}
	h.sh(t, vm.Name, "ps | grep -q '[s]leep 600'") // it still runs
	for _, n := range []int{1, 6, 9, 11, 15, 16, 31, 34, 40, 64} {
		if r := h.run(ctx, nil, "vm", "exec", vm.Name, "--", "sh", "-c", fmt.Sprintf("ulimit -c unlimited; kill -%d $$", n)); r.code != 128+n {
			t.Errorf("a death by signal %d: exit %d (%s)", n, r.code, r.stderr)
		}
	}
	t.Run("ssh leaves what is in the background", func(t *testing.T) {
		proxy := []string{filepath.Join(h.bin, "banger"), "vm", "proxy", string(vm.ID), fmt.Sprint(wire.PortSSH)}
		argv := guest.SSHArgv(h.show(t, vm.Name), proxy, []string{"(while :; do echo hello; echo x >>/tmp/said; sleep 0.1; done) & echo $! >/tmp/server"})
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		cmd := exec.CommandContext(limited, argv[0], argv[1:]...)
		cmd.Env = h.env
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.Run() // until the time is over
		h.sh(t, vm.Name, `test -s /tmp/server && kill -0 $(cat /tmp/server) && n=$(wc -c </tmp/said) && sleep 2 && test $(wc -c </tmp/said) -gt $n && kill $(cat /tmp/server)`)
	})
}
