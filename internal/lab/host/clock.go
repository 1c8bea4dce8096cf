package host

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// clock compares the host's clock with this machine's. A host whose clock stands still at
// times makes every figure wrong that its tests take.
type clock struct {
	host  *Host
	begun time.Time
	then  time.Duration // the host's clock at that time
}

func (h *Host) startClock(ctx context.Context) (clock, error) {
	then, err := h.uptime(ctx)
	return clock{h, time.Now(), then}, err
}

// check returns an error if the host's clock has not followed this machine's.
func (c clock) check(ctx context.Context) error {
	now, err := c.host.uptime(ctx)
	if err != nil {
		return err
	}
	return compareClocks(time.Since(c.begun), now-c.then)
}

// compareClocks allows for a twentieth, and for what asking for the time takes.
func compareClocks(ours, theirs time.Duration) error {
	if off := (ours - theirs).Abs(); off > ours/20+5*time.Second {
		return fmt.Errorf("the lab host's clock went wrong: it counted %.0f s, this machine %.0f s", theirs.Seconds(), ours.Seconds())
	}
	return nil
}

func (h *Host) uptime(ctx context.Context) (time.Duration, error) {
	var out bytes.Buffer
	if status, err := h.Shell(ctx, User, "cat /proc/uptime", &out); err != nil || status != 0 {
		return 0, fmt.Errorf("ask for the host's clock: status %d: %w", status, err)
	}
	return parseUptime(out.String())
}

// parseUptime reads /proc/uptime.
func parseUptime(text string) (time.Duration, error) {
	first, _, _ := strings.Cut(text, " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("read the host's uptime: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}
