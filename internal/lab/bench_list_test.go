//go:build vm

package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/internal/store"
)

// BenchmarkList lists 1,000 stopped VMs.
func BenchmarkList(b *testing.B) {
	once(b)
	const vms = 1000
	h := newHome(b.TempDir(), shared.bin)
	seed(b, h, vms)
	h.must(b, "vm", "list") // starts it
	pid := h.daemonPID(context.Background())
	defer func() {
		h.must(b, "daemon", "stop")
		if err := gone(pid, time.Minute); err != nil {
			b.Error(err)
		}
	}()
	if r := h.run(context.Background(), nil, "vm", "list"); strings.Count(r.stdout, "\n") != vms+1 {
		b.Fatalf("%d lines: %s", strings.Count(r.stdout, "\n"), r.stderr)
	}
	for range 20 {
		measured.millis("list of 1,000 VMs, whole process", "15", h.must(b, "vm", "list"))
	}
	b.ReportMetric(0, "ns/op")
}

// seed records VMs before a daemon runs.
func seed(b *testing.B, h *home, vms int) {
	b.Helper()
	if err := os.MkdirAll(h.dirs.State, 0o700); err != nil {
		b.Fatal(err)
	}
	records, err := store.Open(context.Background(), h.dirs.DB())
	if err != nil {
		b.Fatal(err)
	}
	defer records.Close()
	digest := banger.Digest("sha256:" + strings.Repeat("0123456789abcdef", 4))
	if err := records.PutImage(context.Background(), banger.Image{Name: "docker", ID: digest}); err != nil {
		b.Fatal(err)
	}
	for i := range vms {
		id := banger.VMID(fmt.Sprintf("%012x", i))
		_, err := records.InsertVM(context.Background(), store.VM{ID: id, Name: fmt.Sprintf("seeded-%04d", i),
			Image: "docker", ImageID: digest, Kernel: "6.12.117+deb13-cloud-amd64", KernelID: digest,
			VCPUs: 1, Memory: banger.GiB, Disk: 16 * banger.GiB, Overlay: 8 * banger.GiB, Driver: "qemu", Network: "none", NAT: true,
			MachineID: strings.Repeat("a", 32), CreatedAt: time.Now(), Phase: store.Ready, Wanted: banger.WantStopped})
		if err != nil {
			b.Fatal(err)
		}
		if err := os.MkdirAll(string(h.dirs.VM(id)), 0o700); err != nil {
			b.Fatal(err)
		}
	}
}
