package linux

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// setLoopback gives the loopback link of this thread's network an address.
func setLoopback(addr netip.Prefix) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	lo, err := unix.NewIfreq("lo")
	if err == nil {
		err = lo.SetInet4Addr(addr.Addr().AsSlice())
	}
	return errors.Join(err, unix.IoctlIfreq(socket, unix.SIOCSIFADDR, lo))
}

// TestWatchRoutes: an address that comes is noticed, and what comes after the end is not.
func TestWatchRoutes(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespaces
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("only root has a network of its own here: %v", err)
	}
	ring := make(chan struct{}, 1)
	stop, err := WatchRoutes(ring)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"127.0.0.1/8", "10.1.2.3/8", "10.1.2.4/8"} {
		if err := setLoopback(netip.MustParsePrefix(addr)); err != nil {
			t.Fatal(err)
		}
		rung(t, ring)
	}
	stop()
	stop()
	for len(ring) > 0 {
		<-ring
	}
	if err := setLoopback(netip.MustParsePrefix("10.1.2.5/8")); err != nil {
		t.Fatal(err)
	}
	silent(t, ring)
}
