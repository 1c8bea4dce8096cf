package server

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

// dockerDir often fills up without anyone noticing.
const dockerDir = "/var/lib/docker"

// stats returns what the guest uses. workMount is where the work disk is, if any.
func stats(workMount string) (wire.Stats, error) {
	var s wire.Stats
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return s, fmt.Errorf("read the system's load: %w", err)
	}
	s.UptimeMS = info.Uptime * 1000
	for i, load := range info.Loads {
		s.Load[i] = float64(load) / (1 << 16)
	}
	if err := cpus(&s); err != nil {
		return s, err
	}
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return s, err
	}
	defer file.Close()
	if s.MemoryTotal, s.MemoryAvailable, err = memory(file); err != nil {
		return s, err
	}
	for _, path := range []string{"/", workMount, dockerDir} {
		var fs unix.Statfs_t
		if path == "" || unix.Statfs(path, &fs) != nil {
			continue // this VM does not have it
		}
		s.FileSystems = append(s.FileSystems, wire.FileSystem{Path: path,
			Size: int64(fs.Blocks) * fs.Bsize, Used: int64(fs.Blocks-fs.Bfree) * fs.Bsize})
	}
	return s, nil
}

// cpus reads what the CPUs have done since the boot.
func cpus(s *wire.Stats) error {
	file, err := os.Open("/proc/stat")
	if err != nil {
		return err
	}
	defer file.Close()
	s.CPUs, s.CPUBusyMS, s.CPUTotalMS, err = cpuTimes(file)
	return err
}

// cpuTimes reads /proc/stat: a line "cpu" with the times of all CPUs together, in
// hundredths of a second, then a line for each CPU (man 5 proc).
func cpuTimes(r io.Reader) (count int, busy, total int64, err error) {
	const (
		idle, iowait, steal = 3, 4, 7
		all                 = 8 // the first two contain the later ones
		ms                  = 10
	)
	for lines := bufio.NewScanner(r); lines.Scan(); {
		name, times, _ := strings.Cut(lines.Text(), " ")
		if !strings.HasPrefix(name, "cpu") {
			break
		}
		if name != "cpu" {
			count++
			continue
		}
		fields := strings.Fields(times)
		for i, field := range fields[:min(all, len(fields))] {
			spent, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, 0, 0, fmt.Errorf("read /proc/stat: %w", err)
			}
			total += spent * ms
			if i != idle && i != iowait && i != steal {
				busy += spent * ms
			}
		}
	}
	if count == 0 || total == 0 {
		return 0, 0, 0, errors.New("/proc/stat has no CPU times")
	}
	return count, busy, total, nil
}

// memory reads /proc/meminfo, in bytes.
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
		return 0, 0, errors.New("/proc/meminfo has no MemTotal")
	}
	return total, available, nil
}
