//go:build vm

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/initrd"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// pairs is how many times banger and bare QEMU run in turn.
const pairs = 5

// BenchmarkCreateExec sets `banger vm create` and the first `banger vm exec
// true` against the same QEMU command line with the same kernel, initrd and
// disks, and `true` through the same agent protocol. What banger adds is the
// ratio; the steps of its log tell where.
func BenchmarkCreateExec(b *testing.B) {
	h := shared
	if b.N > 1 {
		b.Skip("use -benchtime 1x: one run is five pairs")
	}
	bareDir := filepath.Join(h.dir, "bare")
	steps := map[string][]time.Duration{}
	var ours, bares, ratios []float64
	for i := range pairs {
		name := fmt.Sprintf("bench-%d", i)
		created, total := h.createExec(b, name)
		for step, took := range h.steps(b, name) {
			steps[step] = append(steps[step], took)
		}
		steps["(whole `vm create`)"] = append(steps["(whole `vm create`)"], created)
		steps["(whole `vm exec true`)"] = append(steps["(whole `vm exec true`)"], total-created)
		// Neither runs while the other is measured.
		if r := h.run(context.Background(), nil, "vm", "stop", "--force", name); r.code != 0 {
			b.Fatal(r.stderr)
		}
		bare := h.bare(b, bareDir, name)
		ours, bares = append(ours, total.Seconds()), append(bares, bare.Seconds())
		ratios = append(ratios, total.Seconds()/bare.Seconds())
		b.Logf("pair %d: banger %.2f s, bare QEMU %.2f s, ratio %.2f", i+1, total.Seconds(), bare.Seconds(), ratios[i])
		if r := h.run(context.Background(), nil, "vm", "delete", "--yes", "--force", name); r.code != 0 {
			b.Fatal(r.stderr)
		}
	}
	b.ReportMetric(median(ours), "banger-s")
	b.ReportMetric(median(bares), "bare-s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(0, "ns/op")
	for _, step := range slices.Sorted(mapKeys(steps)) {
		b.Logf("%-28s %7.1f ms", step, median(millis(steps[step])))
	}
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

func millis(all []time.Duration) []float64 {
	out := make([]float64, len(all))
	for i, d := range all {
		out[i] = float64(d.Microseconds()) / 1000
	}
	return out
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func (h *home) createExec(b *testing.B, name string) (created, total time.Duration) {
	b.Helper()
	if r := h.run(context.Background(), nil, "vm", "list"); r.code != 0 { // the daemon is up
		b.Fatal(r.stderr)
	}
	begun := time.Now()
	for _, args := range [][]string{{"vm", "create", "--name", name}, {"vm", "exec", name, "--", "true"}} {
		if r := h.run(context.Background(), nil, args...); r.code != 0 {
			b.Fatal(r.stderr)
		}
		if created == 0 {
			created = time.Since(begun)
		}
	}
	return created, time.Since(begun)
}

// steps reads the daemon's log for how long each step of a VM's create took.
func (h *home) steps(b *testing.B, name string) map[string]time.Duration {
	b.Helper()
	file, err := os.Open(h.dirs.Log())
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	steps := map[string]time.Duration{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var line struct {
			Msg, Verb, VM, Step string
			Took                time.Duration
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "step" && line.VM == name && line.Verb == "create" {
			steps[line.Step] = line.Took
		}
	}
	return steps
}

// bare runs a VM like the one called name without banger around it, and returns
// the time from the start of QEMU to the end of `true`. The disks and the
// initrd are made before.
func (h *home) bare(b *testing.B, path, name string) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var vm banger.VM
	if err := json.Unmarshal([]byte(h.run(ctx, nil, "vm", "show", "--json", name).stdout), &vm); err != nil {
		b.Fatal(err)
	}
	spec, identity := h.bareSpec(b, ctx, path, vm)
	defer os.RemoveAll(path)
	driver := qemu.New(hostcmd.Host{})
	begun := time.Now()
	machine, err := driver.Launch(ctx, spec)
	spec.Lock.Close()
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		machine.Kill()
		<-machine.Ended()
		machine.Close()
	}()
	conn, err := machine.Dial(ctx, wire.PortControl)
	if err != nil {
		b.Fatal(err)
	}
	control, err := guest.OpenControl(ctx, conn, identity, "bench", func(wire.Event) {})
	if err != nil {
		b.Fatal(err)
	}
	defer control.Close()
	stream, err := machine.Dial(ctx, wire.PortSSH)
	if err != nil {
		b.Fatal(err)
	}
	status, err := guest.Exec(ctx, stream, vm, wire.Exec{Argv: [][]byte{[]byte("true")}}, guest.Session{Stdout: io.Discard, Stderr: io.Discard})
	took := time.Since(begun)
	if err != nil || status != 0 {
		b.Fatalf("true ended with %d: %v", status, err)
	}
	return took
}

func (h *home) bareSpec(b *testing.B, ctx context.Context, path string, vm banger.VM) (vmm.Spec, guest.Identity) {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	from, to := config.VMDir(vm.Dir), config.VMDir(path)
	must(os.Mkdir(path, 0o700))
	for _, name := range []string{config.KernelName, config.BaseName, config.ModulesName} {
		must(os.Link(from.Path(name), to.Path(name)))
	}
	must(disk.Create(ctx, hostcmd.Host{}, to.Overlay(), vm.Overlay, wire.LabelOverlay))
	must(disk.Create(ctx, hostcmd.Host{}, to.Work(), vm.Disk, wire.LabelWork))
	hostKey, err := os.ReadFile(from.HostKey())
	must(err)
	hostPub, err := guest.PublicKey(hostKey)
	must(err)
	userPub, err := guest.UserKey(vm.SSHKey)
	must(err)
	identity := guest.Identity{Token: strings.Repeat("t", 64), Nonce: strings.Repeat("n", 32)}
	data, err := json.Marshal(wire.Config{Version: wire.Version, Name: "bare", MachineID: strings.Repeat("a", 32),
		Nonce: identity.Nonce, Token: identity.Token, AuthorizedKeys: []string{userPub}, HostKey: string(hostKey), HostKeyPub: hostPub,
		Direct: []string{"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"}, WorkMount: "/root", UnixNano: time.Now().UnixNano()})
	must(err)
	initrds, err := filepath.Glob(h.dirs.Initrds() + "/*.cpio")
	must(err)
	must(initrd.Make(to.Initrd(), initrds[0], data))
	lock, err := vmm.Lock(to.Lock())
	must(err)
	return vmm.Spec{ID: "bare", Name: "bare", Dir: path, Lock: lock, Kernel: config.KernelName, Initrd: config.InitrdName,
		Disks: []vmm.Disk{{Role: vmm.Base, File: config.BaseName, ReadOnly: true}, {Role: vmm.Modules, File: config.ModulesName, ReadOnly: true},
			{Role: vmm.Overlay, File: config.OverlayName}, {Role: vmm.Work, File: config.WorkName}},
		VCPUs: vm.VCPUs, Memory: vm.Memory, Console: config.ConsoleName, Log: config.VMMLogName(qemu.Name)}, identity
}
