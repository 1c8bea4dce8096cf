//go:build vm

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/guest/wire"
)

// BenchmarkDaemon measures the daemon's process without VMs and with three, and how
// much longer a stop takes than the guest's own shutdown.
func BenchmarkDaemon(b *testing.B) {
	once(b)
	h, ctx := shared, context.Background()
	var idle float64
	for range 3 {
		h.restartDaemon(b)
		h.must(b, "vm", "list")
		idle = resident(b, h.daemonPID(ctx))
		measured.add("daemon's resident memory, no VM runs", "MiB", "25", idle)
	}
	var names []string
	var first float64 // with one VM: the first create brings in code, and Go's collector waits for 4 MiB
	for i := range 3 {
		names = append(names, fmt.Sprintf("bench-daemon-%d", i))
		h.must(b, "vm", "create", "--name", names[i], "--memory", "512M")
		defer h.run(ctx, nil, "vm", "delete", "--yes", "--force", names[i])
		h.must(b, "vm", "exec", names[i], "--", "true")
		if i == 0 {
			first = resident(b, h.daemonPID(ctx))
			measured.add("daemon, more after its first create", "MiB", "", first-idle)
		}
	}
	measured.add("daemon, more for each of the next two VMs", "MiB", "0.5", (resident(b, h.daemonPID(ctx))-first)/2)
	h.restartDaemon(b)
	for _, name := range names {
		h.must(b, "vm", "exec", name, "--", "true")
	}
	measured.add("daemon, more for each VM after it adopted 3", "MiB", "0.5", (resident(b, h.daemonPID(ctx))-idle)/3)
	for _, name := range names {
		h.must(b, "vm", "wait", "--for", "boot", name)
		h.stopTimed(b, name)
	}
	b.ReportMetric(0, "ns/op")
}

func (h *home) restartDaemon(b *testing.B) {
	b.Helper()
	if pid := h.daemonPID(context.Background()); pid > 0 {
		h.must(b, "daemon", "stop")
		if err := gone(pid, time.Minute); err != nil {
			b.Fatal(err)
		}
	}
	h.must(b, "vm", "list") // starts it
}

// resident returns a process's resident memory in MiB.
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var kib float64
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatalf("process %d has no resident memory", pid)
	return 0
}

// stopTimed stops a VM. The guest's own time is from the daemon's request to the
// guest's bye, which this process hears on a control connection, too.
func (h *home) stopTimed(b *testing.B, name string) {
	b.Helper()
	bye := h.hearBye(b, h.show(b, name))
	begun := time.Now()
	whole := h.must(b, "vm", "stop", name)
	var asked, ended time.Time
	for _, s := range h.steps(b, name, "stop") {
		switch {
		case s.Step == "ask the guest to shut down":
			asked = s.Time.Add(-s.Took)
		case s.Msg == "VM ended":
			ended = s.Time
		}
	}
	if asked.IsZero() || ended.IsZero() {
		b.Fatal("the log lacks the stop's steps")
	}
	said := <-bye
	measured.millis("stop above the guest's shutdown, whole process", "", whole-said.Sub(asked))
	measured.millis("  stop: until the guest is asked", "", asked.Sub(begun))
	measured.millis("  stop: the guest's own, to its bye", "", said.Sub(asked))
	measured.millis("  stop: from the bye to the VMM's end", "", ended.Sub(said))
	measured.millis("  stop: from there to the end of the process", "", begun.Add(whole).Sub(ended))
}

// hearBye waits for a guest's bye on a second control connection.
func (h *home) hearBye(b *testing.B, vm banger.VM) <-chan time.Time {
	b.Helper()
	data, err := os.ReadFile(config.VMDir(vm.Dir).Boot())
	if err != nil {
		b.Fatal(err)
	}
	var identity guest.Identity
	if err := json.Unmarshal(data, &identity); err != nil {
		b.Fatal(err)
	}
	client, err := api.Connect(context.Background(), h.dirs, api.ConnectOptions{NoStart: true})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	bye := make(chan time.Time, 1)
	_, err = guest.OpenControl(context.Background(), dialGuest(b, client, vm, wire.PortControl), identity, "bench", func(e wire.Event) {
		if e.Kind == wire.EventBye {
			bye <- time.Now()
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	return bye
}
