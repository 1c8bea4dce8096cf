package firecracker

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
	"banger/internal/vmm/vmmtest"
)

// kvmGroup is the group of KVM's device in these tests.
const kvmGroup = 4242

// asRoot returns a driver of a daemon that is root, on a host where nobody else
// may enter the directories that lead to VMs and to Firecracker.
func asRoot(t *testing.T) *Driver {
	t.Helper()
	host := process.ThisHost()
	if _, err := host.Account("0123456789ab"); err != nil || !host.Root {
		t.Skipf("only root can run a VMM as somebody else (%v); fix: sudo go test ./internal/vmm/firecracker", err)
	}
	good := goodHost(t)
	host.CPUInfo, host.KVM = good.CPUInfo, good.KVM
	if err := os.Chmod(host.KVM, 0o660); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(host.KVM, 0, kvmGroup); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, binary)
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	copied, err := os.OpenFile(program, os.O_WRONLY|os.O_CREATE, 0o555)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(copied, self); err != nil {
		t.Fatal(err)
	}
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	return &Driver{run: hostcmd.Host{}, places: Places{Configured: program}, host: host}
}

// specForOthers prepares a VM whose fake does nothing wrong.
func specForOthers(t *testing.T) vmm.Spec {
	t.Helper()
	spec := newSpec(t)
	text, err := json.Marshal(orders{Version: "1.12.1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(spec.Dir, ordersFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return spec
}

// The whole contract, with a VMM that has another user than its daemon.
func TestContractAsRoot(t *testing.T) {
	driver := asRoot(t)
	vmmtest.Run(t, func(t *testing.T) (vmm.Driver, func(*testing.T) vmm.Spec) { return driver, specForOthers })
}

// A VMM of root's has no user, group or capability of root's, and of the VM's
// directory what it needs: it can replace nothing that is there.
func TestRootsVMMIsNobody(t *testing.T) {
	driver, spec := asRoot(t), specForOthers(t)
	m := launch(t, driver, spec)
	assertEcho(t, m)
	account, err := driver.host.Account(spec.ID)
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.dir.Account()
	if err != nil || !account.Is() {
		t.Fatalf("%v, %v", account, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.PID()))
	if err != nil {
		t.Fatal(err)
	}
	var dir unix.Stat_t
	if err := unix.Stat(spec.Dir, &dir); err != nil {
		t.Fatal(err)
	}
	id := dir.Gid
	for _, line := range []string{
		fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", id), fmt.Sprintf("Gid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", id),
		fmt.Sprintf("Groups:\t%d \n", kvmGroup), "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapAmb:\t0000000000000000\n",
	} {
		if !strings.Contains(string(status), line) {
			t.Errorf("lacks %q:\n%s", line, status)
		}
	}
	if fmt.Sprint(again) == fmt.Sprint(process.Account{}) || id < 1<<30 {
		t.Errorf("group %d, account %v", id, again)
	}
	for name, want := range map[string]uint32{
		".": unix.S_IFDIR | unix.S_ISVTX | 0o770, config.BaseName: unix.S_IFREG | 0o644, config.OverlayName: unix.S_IFREG | 0o660,
		config.InitrdName: unix.S_IFREG | 0o640, "lock": unix.S_IFREG | 0o600, spec.Console: unix.S_IFREG | 0o600, spec.Log: unix.S_IFREG | 0o660,
		knockSocket: unix.S_IFSOCK | 0o660,
	} {
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(spec.Dir, name), &stat); err != nil || stat.Mode != want || stat.Uid != 0 {
			t.Errorf("%s: mode %o of %d, want %o of root; %v", name, stat.Mode, stat.Uid, want, err)
		}
	}
}
