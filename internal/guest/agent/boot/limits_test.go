package boot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRaiseLimits(t *testing.T) {
	dir := t.TempDir()
	for _, below := range []string{"fs/inotify", "vm"} {
		if err := os.MkdirAll(filepath.Join(dir, below), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	limits := map[string]struct{ now, want string }{
		"fs/inotify/max_user_instances": {"128\n", "8192"},
		"fs/inotify/max_user_watches":   {"8192\n", "524288"},
		"fs/aio-max-nr":                 {"99999999\n", "99999999\n"}, // what is higher stays
		"vm/max_map_count":              {"1048576\n", "1048576\n"},
	}
	for name, l := range limits {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(l.now), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raise(dir)
	for name, l := range limits {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != l.want {
			t.Errorf("%s has %q, %v, want %q", name, got, err, l.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "kernel")); err == nil {
		t.Error("what this kernel does not have was created")
	}
}
