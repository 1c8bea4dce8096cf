package process_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"banger/internal/vmm/process"

	"banger"
)

const (
	allUsers  = "         0          0 4294967295\n"
	fewUsers  = "         0       1000          1\n         1     100000      65536\n"
	mayAll    = "Name:\tbangerd\nCapEff:\t000001ffffffffff\nCapBnd:\t0000000000000000\n"
	mayLittle = "Name:\tbangerd\nCapEff:\t00000000a80425fb\nCapBnd:\t000001ffffffffff\n" // a container's
)

// rootOn is root of a host that tells this of itself.
func rootOn(t *testing.T, uidMap, status string) process.Host {
	t.Helper()
	host := process.Host{Root: true, Self: t.TempDir(), KVM: "/nonexistent/kvm"}
	for name, text := range map[string]string{"uid_map": uidMap, "status": status} {
		if err := os.WriteFile(filepath.Join(host.Self, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return host
}

// VMs whose first choice is the same get different accounts, also at the same time, and
// keep them.
func TestAccountsDoNotCollide(t *testing.T) {
	host := rootOn(t, allUsers, mayAll)
	if os.Geteuid() != 0 {
		t.Skip("only root gives a directory another group; fix: sudo go test ./internal/vmm")
	}
	const id, vms = "0123456789ab", 20
	above := t.TempDir()
	dirs := make([]*process.Dir, vms)
	for i := range dirs {
		path := filepath.Join(above, fmt.Sprint(i))
		err := os.Mkdir(path, 0o700)
		if err == nil {
			dirs[i], err = process.OpenDir(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer dirs[i].Close()
	}
	assign := func() (all [vms]process.Account) {
		var assigns sync.WaitGroup
		for i, dir := range dirs {
			assigns.Go(func() {
				var err error
				if all[i], err = host.Assign(dir, id); err != nil {
					t.Error(err)
				}
			})
		}
		assigns.Wait()
		return all
	}
	first := assign()
	seen := map[process.Account]bool{}
	for _, account := range first {
		if !account.Is() || seen[account] {
			t.Errorf("%v is none, or another VM's", account)
		}
		seen[account] = true
	}
	if again := assign(); again != first {
		t.Errorf("%v, and then %v", first, again)
	}
}

// Each VM has an account, and always the same; a plain user's has none.
func TestAccountsDiffer(t *testing.T) {
	host, seen := rootOn(t, allUsers, mayAll), map[process.Account]banger.VMID{}
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
	for _, host := range []process.Host{rootOn(t, fewUsers, mayAll), rootOn(t, allUsers, mayLittle), rootOn(t, "", "")} {
		if _, err := host.Account("0123456789ab"); !errors.Is(err, process.ErrNoAccounts) || banger.FixOf(err) == "" {
			t.Errorf("got %v", err)
		}
	}
}
