//go:build vm

package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"banger"
)

// builtBare names the directory of the bare VM's programs where they are built already: a
// host may have no Go.
const builtBare = "BANGER_TEST_BARE"

// barePrograms returns the directory with the programs bare and bare-init.
func barePrograms(b *testing.B) string {
	b.Helper()
	if built := os.Getenv(builtBare); built != "" {
		return built
	}
	dir := b.TempDir()
	for name, pkg := range map[string]string{"bare": "./bare", "bare-init": "./bare/init"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("build %s: %v: %s", pkg, err, out)
		}
	}
	return dir
}

// bareSeconds is what the bare VM took.
type bareSeconds struct{ first, second, cpu float64 }

// bare runs a VM with the same VMM, kernel, CPUs and memory as vm, and nothing of banger.
func (h *home) bare(b *testing.B, programs string, vm banger.VM) (s bareSeconds) {
	b.Helper()
	cmd := exec.Command(filepath.Join(programs, "bare"), "--vmm", vm.Driver, "--init", filepath.Join(programs, "bare-init"),
		"--kernel", filepath.Join(h.bin, "runtime/kernel/vmlinux"), "--cpus", fmt.Sprint(vm.VCPUs), "--memory", fmt.Sprint(int64(vm.Memory/banger.MiB)))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%v: %s", err, said.String())
	}
	if _, err := fmt.Sscanf(string(out), "first %f second %f cpu %f", &s.first, &s.second, &s.cpu); err != nil {
		b.Fatalf("%q: %v", out, err)
	}
	return s
}
