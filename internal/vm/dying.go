package vm

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dying reports whether the VMM's process has ended or cannot but end: the
// kernel takes tens of milliseconds to end one that was killed, since it has a
// guest's memory to free, and tells of the end only afterwards.
func (r *run) dying() bool {
	if !r.alive() {
		return true
	}
	pid := r.machine.PID()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || exiting(stat) {
		return true
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || killed(status)
}

// exiting reports whether /proc/<pid>/stat is that of a process whose main
// thread is on its way out.
func exiting(stat []byte) bool {
	const flags, pfExiting = 6, 0x4 // the flags are the ninth field, the sixth after the state
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= flags {
		return true
	}
	n, err := strconv.ParseUint(string(fields[flags]), 10, 64)
	return fields[0][0] == 'Z' || fields[0][0] == 'X' || err != nil || n&pfExiting != 0
}

// killed reports whether /proc/<pid>/status is that of a process with a SIGKILL
// on its way.
func killed(status []byte) bool {
	for line := range strings.Lines(string(status)) {
		name, mask, _ := strings.Cut(line, ":")
		if name != "SigPnd" && name != "ShdPnd" {
			continue
		}
		pending, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err == nil && pending&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}
