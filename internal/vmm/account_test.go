package vmm_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/vmm"
)

const (
	allUsers  = "         0          0 4294967295\n"
	fewUsers  = "         0       1000          1\n         1     100000      65536\n"
	mayAll    = "Name:\tbangerd\nCapEff:\t000001ffffffffff\nCapBnd:\t0000000000000000\n"
	mayLittle = "Name:\tbangerd\nCapEff:\t00000000a80425fb\nCapBnd:\t000001ffffffffff\n" // a container's
)

// rootOn is root of a host that tells this of itself.
func rootOn(t *testing.T, uidMap, status string) vmm.Host {
	t.Helper()
	host := vmm.Host{Root: true, Self: t.TempDir(), KVM: "/nonexistent/kvm"}
	for name, text := range map[string]string{"uid_map": uidMap, "status": status} {
		if err := os.WriteFile(filepath.Join(host.Self, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

// Each VM has an account of its own, and always the same; a plain user's has none.
func TestAccountsDiffer(t *testing.T) {
	host, seen := rootOn(t, allUsers, mayAll), map[vmm.Account]banger.VMID{}
	for i := range 1000 {
		id := banger.VMID(fmt.Sprintf("%012x", i*0x9e3779b1))
		account, err := host.Account(id)
		if err != nil || !account.Is() {
			t.Fatalf("%v, %v", account, err)
		}
		if again, _ := host.Account(id); again != account {
			t.Errorf("%s: %v and %v", id, account, again)
		}
		if other, taken := seen[account]; taken {
			t.Errorf("%s and %s: %v", id, other, account)
		}
		seen[account] = id
	}
	host.Root = false
	if account, err := host.Account("0123456789ab"); err != nil || account.Is() {
		t.Errorf("a plain user has %v, %v", account, err)
	}
}

func TestRootOfALittleContainerHasNoAccounts(t *testing.T) {
	for _, host := range []vmm.Host{rootOn(t, fewUsers, mayAll), rootOn(t, allUsers, mayLittle), rootOn(t, "", "")} {
		if _, err := host.Account("0123456789ab"); !errors.Is(err, vmm.ErrNoAccounts) || banger.FixOf(err) == "" {
			t.Errorf("got %v", err)
		}
	}
}
