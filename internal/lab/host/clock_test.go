package host

import (
	"testing"
	"time"
)

func TestCompareClocks(t *testing.T) {
	for theirs, ok := range map[time.Duration]bool{
		100 * time.Second: true, 95 * time.Second: true, 89 * time.Second: false, 111 * time.Second: false, 40 * time.Second: false,
	} {
		if err := compareClocks(100*time.Second, theirs); (err == nil) != ok {
			t.Errorf("%v of 100 s: %v", theirs, err)
		}
	}
}

func TestParseUptime(t *testing.T) {
	if got, err := parseUptime("1234.50 99.00\n"); err != nil || got != 1234500*time.Millisecond {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "x 1"} {
		if _, err := parseUptime(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
