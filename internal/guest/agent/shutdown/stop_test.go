package shutdown

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"banger/internal/guest/agent/imageinit"
)

// A stop that is requested during a soft reboot is requested again of the systemd that
// starts after it.
func TestStopOutlivesASoftReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "init")
		if err := imageinit.Begin(file, imageinit.Systemd); err != nil {
			t.Fatal(err)
		}
		init, err := imageinit.OpenWatch(file)
		if err != nil {
			t.Fatal(err)
		}
		init.Hear("X_SYSTEMD_SIGNALS_LEVEL=2\nSTATUS=Activating special unit soft-reboot.target...")
		ctx, cancel := context.WithCancel(t.Context())
		asked := 0
		returned := make(chan bool, 1)
		go func() {
			never := func() bool { return false }
			returned <- askSystemd(ctx, init, never, func() bool { asked++; return false })
		}()
		time.Sleep(10 * askAgain)
		init.Hear("X_SYSTEMD_UNIT_ACTIVE=shutdown.target")
		synctest.Wait()
		if asked != 0 {
			t.Errorf("systemd was asked %d times while it ended", asked)
		}
		init.Hear("X_SYSTEMD_SIGNALS_LEVEL=2")
		synctest.Wait()
		if asked != 1 {
			t.Errorf("systemd was asked %d times when it was back", asked)
		}
		cancel()
		if !<-returned {
			t.Error("a cancelled stop is reported as a crash")
		}
	})
}

func TestClosedAll(t *testing.T) {
	fds := t.TempDir()
	for _, c := range []struct {
		open string
		want bool
	}{{"0", true}, {"2", true}, {"3", false}} {
		if err := os.WriteFile(filepath.Join(fds, c.open), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := closedAll(fds); got != c.want {
			t.Errorf("with %s open: %v", c.open, got)
		}
	}
	if closedAll("/proc/self/fd") {
		t.Error("this process has nothing open")
	}
	if closedAll(filepath.Join(fds, "none")) {
		t.Error("a process that cannot be read is reported as crashed")
	}
}
