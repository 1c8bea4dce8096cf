package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// dockerDir is what fills a disk that nobody looks at.
const dockerDir = "/var/lib/docker"

// stats looks at the guest as a whole.
func stats(c wire.Config) (wire.Stats, error) {
	var s wire.Stats
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return s, fmt.Errorf("look at the system: %w", err)
	}
	s.UptimeMS = info.Uptime * 1000
	for i, load := range info.Loads {
		s.Load[i] = float64(load) / (1 << 16)
	}
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return s, err
	}
	defer file.Close()
	if s.MemoryTotal, s.MemoryAvailable, err = memory(file); err != nil {
		return s, err
	}
	for _, path := range []string{"/", c.WorkMount, dockerDir} {
		var fs unix.Statfs_t
		if path == "" || unix.Statfs(path, &fs) != nil {
			continue // this VM has none
		}
		s.FileSystems = append(s.FileSystems, wire.FileSystem{Path: path,
			Size: int64(fs.Blocks) * fs.Bsize, Used: int64(fs.Blocks-fs.Bfree) * fs.Bsize})
	}
	return s, nil
}

// memory reads /proc/meminfo.
func memory(r io.Reader) (total, available int64, err error) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		to := map[string]*int64{"MemTotal:": &total, "MemAvailable:": &available}[fields[0]]
		if to == nil {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read /proc/meminfo: %w", err)
		}
		*to = kib << 10
	}
	if total == 0 {
		return 0, 0, errors.New("/proc/meminfo does not tell the memory")
	}
	return total, available, nil
}
