package imageinit

import (
	"slices"
	"strings"
	"testing"

	"banger/internal/guest/wire"
)

// FuzzNotify is an init that sends anything: its state is always one that the host
// knows, and only a new start leaves an end.
func FuzzNotify(f *testing.F) {
	for _, text := range []string{
		"READY=1\nSTATUS=Startup finished.\n", "X_SYSTEMD_SIGNALS_LEVEL=2", "X_SYSTEMD_UNIT_ACTIVE=multi-user.target\n",
		"STATUS=Activating special unit poweroff.target...\n", "X_SYSTEMD_UNIT_ACTIVE=shutdown.target\nREADY=1", "X_SYSTEMD_UNIT_ACTIVE=emergency.target\nREADY=1", "=\n\n==", "STATUS=Activating special unit ",
	} {
		f.Add(text, "READY=1")
	}
	known := []wire.Init{wire.InitStarting, wire.InitHears, wire.InitUp, wire.InitEmergency, wire.InitStopping, wire.InitShutdown}
	f.Fuzz(func(t *testing.T, first, second string) {
		now := wire.InitStarting
		for line := range strings.Lines(first + "\n" + second) {
			before := now
			now = nextInit(now, strings.TrimRight(line, "\n"), func() bool { return strings.Contains(first, "emergency") })
			if !slices.Contains(known, now) {
				t.Fatalf("%q leads from %s to %q", line, before, now)
			}
			ending := before == wire.InitStopping || before == wire.InitShutdown
			if ending && now == wire.InitUp || before == wire.InitShutdown && now == wire.InitStopping {
				t.Errorf("%q leads back from %s to %s", line, before, now)
			}
		}
	})
}
