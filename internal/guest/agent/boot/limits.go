package boot

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"banger/internal/guest/agent/log"
)

// limits are settings of the kernel that are too small on a developer's machine, and the
// least that they become.
var limits = []struct {
	name  string
	least uint64
}{
	{"fs/aio-max-nr", 1 << 20},                 // databases
	{"fs/inotify/max_user_instances", 8192},    // editors, bundlers and containers of one user
	{"fs/inotify/max_user_watches", 512 << 10}, // an editor takes one for each file
	{"kernel/keys/maxbytes", 200000},
	{"kernel/keys/maxkeys", 2000}, // a container takes one
	{"kernel/pid_max", 4 << 20},   // as systemd sets it
	{"vm/max_map_count", 1 << 20}, // search engines, databases
}

// raiseLimits is one of the first steps: what the image sets in sysctl.d, its init sets
// later.
func (*boot) raiseLimits() error {
	raise("/proc/sys")
	return nil
}

// raise raises each limit that is lower. A kernel need not have all of them.
func raise(dir string) {
	for _, l := range limits {
		path := filepath.Join(dir, l.name)
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		now, bad := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && bad == nil && now >= l.least {
			continue
		}
		if err := os.WriteFile(path, strconv.AppendUint(nil, l.least, 10), 0); err != nil {
			log.Errorf("raise a limit: %v", err)
		}
	}
}
