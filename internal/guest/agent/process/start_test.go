package process

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestFileLimit(t *testing.T) {
	for most, want := range map[string]unix.Rlimit{
		"1048576\n": {Cur: 1024, Max: 524288},
		"4096\n":    {Cur: 1024, Max: 4096},
		"":          {Cur: 1024, Max: 524288},
	} {
		if got := fileLimit(most); got != want {
			t.Errorf("%q: got %+v", most, got)
		}
	}
}
