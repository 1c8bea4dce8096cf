// Package realguest makes what a real VMM boots for the contract of a driver: the
// runtime's kernel, an initrd with the contract's guest in it, and empty disks. It
// knows no driver.
package realguest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/initrd"
	"banger/internal/vmm"
)

// BuiltGuest names the contract's guest where it is built already: a host may
// have no Go.
const BuiltGuest = "BANGER_TEST_GUEST"

// Guest is what the VMs of one test boot.
type Guest struct {
	kernel string
	base   string // the initrd, without a configuration
}

// Build makes the guest, for the tests of a package next to vmmtest. It takes the
// kernel of ./runtime.
func Build(t *testing.T) Guest {
	t.Helper()
	set := config.BundleDir("../../../runtime").Kernel()
	kernel, err := filepath.Abs(set.Vmlinux())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kernel); err != nil {
		t.Fatalf("%v; fix: make runtime", err)
	}
	g := Guest{kernel: kernel, base: filepath.Join(t.TempDir(), "base.cpio")}
	file, err := os.Create(g.base)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := initrd.WriteBase(file, Program(t), set.BootModules()); err != nil {
		t.Fatal(err)
	}
	return g
}

// Program builds the first process of the guest.
func Program(t *testing.T) string {
	t.Helper()
	if built := os.Getenv(BuiltGuest); built != "" {
		return built
	}
	path := filepath.Join(t.TempDir(), "init")
	_, err := hostcmd.Host{}.Run(t.Context(), hostcmd.Cmd{
		Argv: []string{"go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "../testdata/init"},
		Env:  append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="),
	})
	if err != nil {
		t.Fatalf("build the guest: %v", err)
	}
	return path
}

// Spec is a new VM of a driver, in a directory of its own. The guest is told what
// c says, with secrets of the test's name.
func (g Guest) Spec(t *testing.T, driver string, c wire.Config) vmm.Spec {
	t.Helper()
	dir := config.VMDir(filepath.Join(t.TempDir(), "a-directory,with=odd names and one that is quite a bit longer than any address of a socket could be"))
	if err := os.Mkdir(string(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(g.kernel, dir.Kernel()); err != nil {
		t.Fatal(err)
	}
	c.Version, c.Name, c.Nonce, c.Token = wire.Version, "contract", "nonce-of-"+t.Name(), "token-of-"+t.Name()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := initrd.Make(dir.Initrd(), g.base, data); err != nil {
		t.Fatal(err)
	}
	for disk, mode := range map[string]os.FileMode{dir.Base(): 0o644, dir.Overlay(): 0o600} { // the base is shared with other VMs
		if err := os.WriteFile(disk, nil, mode); err != nil {
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
	return SpecIn(string(dir), driver, lock)
}

// SpecIn is the VM whose directory Spec has made.
func SpecIn(dir, driver string, lock *os.File) vmm.Spec {
	return vmm.Spec{
		ID: "0123456789ab", Name: "contract", Dir: dir, Lock: lock,
		Kernel: config.KernelName, Initrd: config.InitrdName, VCPUs: 1, Memory: 256 * banger.MiB,
		Disks:   []vmm.Disk{{Role: vmm.Base, File: config.BaseName, ReadOnly: true}, {Role: vmm.Overlay, File: config.OverlayName}},
		Console: config.ConsoleName, Log: config.VMMLogName(driver),
	}
}
