//go:build vm

package qemu

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/initrd"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

func TestContract(t *testing.T) {
	base := buildBase(t)
	vmmtest.Run(t, func(t *testing.T) (vmm.Driver, func(*testing.T) vmm.Spec) {
		return New(hostcmd.Host{}), func(t *testing.T) vmm.Spec { return newSpec(t, base) }
	})
}

// parts is the kernel set to boot.
func parts(t *testing.T) config.KernelDir {
	t.Helper()
	set := config.BundleDir("../../../runtime").Kernel()
	if _, err := os.Stat(set.Vmlinux()); err != nil {
		t.Fatalf("%v; fix: make runtime", err)
	}
	return set
}

// buildBase makes the base initrd with the contract's guest as its init.
func buildBase(t *testing.T) string {
	t.Helper()
	kernel, dir := parts(t), t.TempDir()
	agent := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, "../testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	base := filepath.Join(dir, "base.cpio")
	file, err := os.Create(base)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := initrd.WriteBase(file, agent, kernel.BootModules()); err != nil {
		t.Fatal(err)
	}
	return base
}

func newSpec(t *testing.T, base string) vmm.Spec {
	t.Helper()
	dir := config.VMDir(filepath.Join(t.TempDir(), "a-directory,with=odd names and one that is quite a bit longer than any address of a socket could be"))
	if err := os.Mkdir(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	vmlinux, err := filepath.Abs(parts(t).Vmlinux())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(vmlinux, dir.Kernel()); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(wire.Config{Version: wire.Version, Name: "contract", Nonce: "nonce-of-" + t.Name(), Token: "token-of-" + t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	if err := initrd.Make(dir.Initrd(), base, data); err != nil {
		t.Fatal(err)
	}
	for _, disk := range []string{dir.Base(), dir.Overlay()} {
		if err := os.WriteFile(disk, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(disk, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := vmm.Lock(dir.Lock())
	if err != nil {
		t.Fatal(err)
	}
	return specIn(string(dir), lock)
}

func specIn(dir string, lock *os.File) vmm.Spec {
	return vmm.Spec{
		ID: "0123456789ab", Name: "contract", Dir: dir, Lock: lock,
		Kernel: config.KernelName, Initrd: config.InitrdName, VCPUs: 1, Memory: 256 * banger.MiB,
		Disks:   []vmm.Disk{{Role: vmm.Base, File: config.BaseName, ReadOnly: true}, {Role: vmm.Overlay, File: config.OverlayName}},
		Console: config.ConsoleName, Log: config.VMMLogName(Name),
	}
}
