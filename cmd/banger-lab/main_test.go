package main

import (
	"os"
	"testing"

	"banger/internal/config"
	"banger/internal/lab/host"
)

func TestExitCodes(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for _, test := range []struct {
		args []string
		code int
	}{
		{nil, 2},
		{[]string{"start"}, 2},
		{[]string{"test", "--no-such-flag"}, 2},
		{[]string{"test", "--suite", "none"}, 2},
		{[]string{"compare", "--rounds", "many"}, 2},
	} {
		if code := run(t.Context(), test.args); code != test.code {
			t.Errorf("%q: exit %d, want %d", test.args, code, test.code)
		}
	}
	dirs, err := config.DirsFrom(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	other := &host.Lab{}
	if err := other.Open(dirs); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if code, want := run(t.Context(), []string{"build"}), 4; code != want {
		t.Errorf("beside another lab: exit %d, want %d", code, want)
	}
}
