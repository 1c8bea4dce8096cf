package instance

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/network"
	"banger/internal/network/helper"
	"banger/internal/network/namespace"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// reachable lets other accounts pass to a directory: root's helper runs as one.
func reachable(t testing.TB, dir string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		return dir
	}
	if err := errors.Join(os.Chmod(dir, 0o711), os.Chmod(filepath.Dir(dir), 0o711)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// open opens a plain user's network, and skips the test where there is none.
func open(t testing.TB) *Network {
	t.Helper()
	if err := namespace.Check(t.Context()); err != nil {
		t.Skipf("no namespace with a TAP here: %v; fix: %s", err, banger.FixOf(err))
	}
	n, err := Open(t.Context(), Config{Dirs: config.Dirs{State: reachable(t, t.TempDir())}, Log: slog.New(slog.DiscardHandler),
		Subnet:  func(context.Context) (netip.Prefix, error) { return netip.MustParsePrefix("10.201.16.0/20"), nil },
		Account: func() (process.Account, error) { return process.ThisHost().Account("helper") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Adopt(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return n
}

// nothing is left of a network without VMs.
func nothing(t *testing.T, n *Network, after string) {
	t.Helper()
	if n.ns != nil || n.helper != nil || len(n.guests) > 0 {
		t.Errorf("after %s: namespace %v, helper %v, guests %v", after, n.ns, n.helper, n.guests)
	}
	if _, err := helper.Find(n.Dirs.Net()); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("after %s: a helper runs: %v", after, err)
	}
}

// An Attach that fails on its way leaves nothing, and the next one succeeds.
func TestAttachFails(t *testing.T) {
	n := open(t)
	account, refused := n.Account, errors.New("no account")
	n.Account = func() (process.Account, error) { return process.Account{}, refused }
	if _, _, _, err := n.Attach(t.Context(), "", guestOf(n, 1)); !errors.Is(err, refused) {
		t.Errorf("without a helper: %v", err)
	}
	nothing(t, n, "a helper that cannot start")
	n.Account = account
	bad := guestOf(n, 2)
	bad.Addr = netip.MustParseAddr("192.0.2.1")
	if _, _, _, err := n.Attach(t.Context(), "", bad); err == nil {
		t.Error("an address of another network was taken")
	}
	nothing(t, n, "a guest that is refused")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := n.Attach(ctx, "", guestOf(n, 3)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	nothing(t, n, "a cancelled one")
	good := guestOf(n, 4)
	if _, _, _, err := n.Attach(t.Context(), "", good); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := n.Attach(t.Context(), "", bad); err == nil || len(n.guests) != 1 || n.helper == nil {
		t.Errorf("beside another: %v, %v", err, n.guests)
	}
	if _, err := n.Detach(t.Context(), good.ID); err != nil {
		t.Error(err)
	}
	nothing(t, n, "the last VM")
}

// A change that fails leaves what was before, also where the kernel had followed.
func TestSetFails(t *testing.T) {
	n := open(t)
	g := guestOf(n, 1)
	if _, _, _, err := n.Attach(t.Context(), "", g); err != nil {
		t.Fatal(err)
	}
	sees := func() string {
		t.Helper()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("nsenter", n.ns.Enter(self)...)
		cmd.Env = append(os.Environ(), roleEnv+"=look", "GORACE=atexit_sleep_ms=0")
		out, err := cmd.Output()
		if err != nil || len(out) == 0 {
			t.Fatalf("look: %v", err)
		}
		_, sets, _ := strings.Cut(string(out), n.instance.Table()) // links lose their carrier without a VMM
		return sets
	}
	before := sees()
	n.mu.Lock()
	p := n.helper
	n.helper = nil // so that nobody but the change starts another
	n.mu.Unlock()
	account, refused := n.Account, errors.New("no account")
	n.Account = func() (process.Account, error) { return process.Account{}, refused }
	if err := helper.End(p); err != nil {
		t.Error(err)
	}
	if err := n.Set(t.Context(), g.ID, false, true); !errors.Is(err, refused) {
		t.Errorf("without a helper: %v", err)
	}
	if now := sees(); now != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, now)
	}
	n.Account = account
	if err := n.Set(t.Context(), g.ID, false, true); err != nil || sees() == before {
		t.Errorf("nothing has changed: %v", err)
	}
	if _, err := n.Detach(t.Context(), g.ID); err != nil {
		t.Error(err)
	}
}

// Many at once: each VM has its TAP, and the last one takes all with it.
func TestAtOnce(t *testing.T) {
	n := open(t)
	const vms = 6
	var all sync.WaitGroup
	for i := range vms {
		all.Go(func() {
			if _, _, _, err := n.Attach(t.Context(), "", guestOf(n, i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if have, err := n.Traffic(t.Context()); err != nil || len(have) != vms {
		t.Errorf("%v, %v", have, err)
	}
	if got, err := n.Detach(t.Context(), "ffffffffffff"); err != nil || got != (network.Traffic{}) {
		t.Errorf("an unknown VM: %v, %v", got, err)
	}
	for i := range vms {
		all.Go(func() {
			if _, err := n.Detach(t.Context(), guestOf(n, i).ID); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	nothing(t, n, "the last VM")
}

// After Close nothing changes any more: the VMs keep their network.
func TestClosed(t *testing.T) {
	n := open(t)
	g := guestOf(n, 1)
	if _, _, _, err := n.Attach(t.Context(), "", g); err != nil {
		t.Fatal(err)
	}
	p := n.helper
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := n.Detach(t.Context(), g.ID); err == nil {
		t.Error("a VM was detached after Close")
	}
	if found, err := helper.Find(n.Dirs.Net()); err != nil || found.PID() != p.PID() {
		t.Errorf("the helper is gone: %v", err)
	} else if err := helper.End(found); err != nil {
		t.Error(err)
	}
}
