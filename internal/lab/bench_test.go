//go:build vm

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	"banger/internal/vmm/firecracker"
)

// pairs is how often banger and the bare VMM run in turn.
const pairs = 5

// BenchmarkCreateExec compares `banger vm create` and the first `banger vm exec true`
// with the same VMM, settings, kernel, initrd, disks and agent protocol without banger.
// The ratio is what banger adds; the steps in its log show where.
func BenchmarkCreateExec(b *testing.B) {
	once(b)
	h := shared
	var image []string
	if os.Getenv(wantedDriver) == firecracker.Name { // in the lab, whose CPU is slow
		image = []string{"--image", h.tiny(b)}
	}
	h.must(b, append([]string{"vm", "run", "--rm", "--name", "first"}, append(image, "--", "true")...)...) // what only a first VM has to do
	bareDir := filepath.Join(h.dir, "bare")
	for i := range pairs {
		name := fmt.Sprintf("bench-%d", i)
		create := h.must(b, append([]string{"vm", "create", "--name", name}, image...)...)
		exec := h.must(b, "vm", "exec", name, "--", "true")
		h.must(b, "vm", "exec", name, "--", "sync")
		size := ownBlocks(b, h.show(b, name).Dir)
		settings := h.settings(b, name)
		// Neither runs while the other is measured.
		h.must(b, "vm", "stop", "--force", name)
		bare := h.bare(b, bareDir, name, settings)
		h.must(b, "vm", "delete", "--yes", "--force", name)

		measured.add("create to the end of the first exec, banger", "s", "", (create + exec).Seconds())
		measured.add("the same, bare VMM", "s", "", bare.Seconds())
		measured.add("their ratio", "", "1.10", (create+exec).Seconds()/bare.Seconds())
		for _, step := range h.steps(b, name, "create") {
			if step.Msg == "step" {
				measured.millis("  create: "+step.Step, "", step.Took)
			}
		}
		measured.millis("  create, whole process", "", create)
		measured.millis("  first exec, whole process", "", exec)
		measured.add("state of a VM after its first exec", "MiB", "10", float64(size)/float64(banger.MiB))
		b.Logf("pair %d: banger %.2f s, bare VMM %.2f s", i+1, (create + exec).Seconds(), bare.Seconds())
	}
	b.ReportMetric(0, "ns/op")
}

// ownBlocks returns what a VM's directory takes on the host, without the image and the
// kernel, which VMs share.
func ownBlocks(b *testing.B, dir string) banger.Size {
	b.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	var sum banger.Size
	for _, file := range files {
		var stat syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(dir, file.Name()), &stat); err != nil {
			b.Fatal(err)
		}
		if stat.Nlink == 1 {
			sum += banger.Size(stat.Blocks) * 512
		}
	}
	return sum
}

// logged is a line in the daemon's log about a step.
type logged struct {
	Msg, Verb, VM, Step string
	Time                time.Time
	Took                time.Duration
}

// steps returns how long each step of a VM's operation took, from the daemon's log.
func (h *home) steps(b *testing.B, name, verb string) []logged {
	b.Helper()
	file, err := os.Open(h.dirs.Log())
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var steps []logged
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var s logged
		if json.Unmarshal(lines.Bytes(), &s) == nil && s.VM == name && (s.Msg == "step" && s.Verb == verb || s.Msg == "VM ended") {
			steps = append(steps, s)
		}
	}
	return steps
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
		Direct: []string{"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"}, WorkMount: "/root", ResetToOff: vm.Driver == firecracker.Name, UnixNano: time.Now().UnixNano()})
	must(err)
	initrds, err := filepath.Glob(h.dirs.Initrds() + "/*.cpio")
	must(err)
	must(initrd.Make(to.Initrd(), initrds[0], data))
	lock, err := vmm.Lock(to.Lock())
	must(err)
	return vmm.Spec{ID: "bare", Name: "bare", Dir: path, Lock: lock, Kernel: config.KernelName, Initrd: config.InitrdName,
		Disks: []vmm.Disk{{Role: vmm.Base, File: config.BaseName, ReadOnly: true}, {Role: vmm.Modules, File: config.ModulesName, ReadOnly: true},
			{Role: vmm.Overlay, File: config.OverlayName}, {Role: vmm.Work, File: config.WorkName}},
		VCPUs: vm.VCPUs, Memory: vm.Memory, Console: config.ConsoleName, Log: config.VMMLogName(vm.Driver)}, identity
}
