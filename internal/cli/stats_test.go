package cli

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"banger"
)

func TestStats(t *testing.T) {
	f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
	f.run(t, setup{}, "vm", "stats", "otter", "wombat").want(t, 0,
		"NAME    STATE    UPTIME  CPU  LOAD  MEMORY   /      /root   CPU TIME  RESIDENT  BALLOON  OVERLAY  WORK DISK  RECEIVED  SENT\n"+
			"otter   running  1m0s    90%  0.50  768M/1G  1G/8G  2G/16G  3s        600M      256M     5M       6M         7M        8M\n"+
			"wombat  stopped  -       -    -     -        -      -       -         -         -        5M       6M         7M        8M\n", "")
	r := f.run(t, setup{}, "vm", "stats", "--json", "otter", "nobody")
	decoder := json.NewDecoder(strings.NewReader(r.out))
	var s banger.VMStats
	var second failure
	if decoder.Decode(&s) != nil || decoder.Decode(&second) != nil || s.Guest == nil || s.Resident != 600*banger.MiB || second.Error.Kind != banger.NotFound || r.code != 3 {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{}, {"otter", "--interval", "1ms"}} {
		if r := f.run(t, setup{}, append([]string{"vm", "stats"}, args...)...); r.code != 2 {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

func TestBusy(t *testing.T) {
	at := func(busy, total time.Duration) banger.GuestStats {
		return banger.GuestStats{CPUBusy: busy, CPUTotal: total}
	}
	for _, c := range []struct {
		now, last banger.GuestStats
		want      string
	}{
		{at(0, 0), at(0, 0), "-"},
		{at(1, 4), at(0, 0), "-"}, // what it used since its boot says nothing of now
		{at(5, 8), at(1, 4), "100%"},
		{at(1, 8), at(1, 4), "0%"},
		{at(1, 4), at(2, 8), "-"}, // it has rebooted meanwhile
		{at(1, 4), at(1, 4), "-"},
		{at(1, -4), at(1, 4), "-"}, // guests can report anything
	} {
		if got := busy(c.now, c.last); got != c.want {
			t.Errorf("%v after %v: %s, want %s", c.now, c.last, got, c.want)
		}
	}
}

func TestStatsWatch(t *testing.T) {
	f := newFake(aVM("otter", banger.Running))
	signals := make(chan os.Signal, 1)
	f.looked = func(times int) {
		if times == 3 {
			signals <- os.Interrupt
		}
	}
	r := f.run(t, setup{tty: true, signals: signals}, "vm", "stats", "--watch", "--interval", "100ms", "otter")
	if r.code != exitInterrupted || strings.Count(r.out, "\x1b[H\x1b[2JNAME ") < 2 || strings.Contains(r.out, "  12%  ") || !strings.Contains(r.out, "  90%  ") {
		t.Errorf("%+v", r)
	}
}
