package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/layout"
)

// MakeCgroups makes the agent's control groups.
func MakeCgroups() error {
	for _, dir := range []string{layout.CgroupServer, layout.CgroupSessions} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
	}
	return nil
}

// sessions lists the processes in the sessions' control group and those below it.
func sessions() []int {
	var pids []int
	filepath.WalkDir(layout.CgroupSessions, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil
		}
		list, _ := os.ReadFile(path)
		for _, word := range strings.Fields(string(list)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// AskSessions asks the programs of all sessions to end and returns their process
// ids. Most programs end on TERM, an interactive shell only on HUP.
func AskSessions() []int {
	pids := sessions()
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGTERM)
		unix.Kill(pid, unix.SIGHUP)
		unix.Kill(pid, unix.SIGCONT)
	}
	return pids
}

// KillSessions kills the programs of all sessions. They are in no unit of
// systemd's, which would wait 90 s for those that ignore TERM.
func KillSessions() {
	os.WriteFile(layout.CgroupSessions+"/cgroup.kill", []byte("1"), 0)
}

// FreezeInit stops process 1 and everything in its control group.
func FreezeInit() {
	if group := cgroupOf(1); group != "/" {
		os.WriteFile(layout.CgroupRoot+group+"/cgroup.freeze", []byte("1"), 0)
	}
}

// cgroupOf returns the control group of a process, seen from the root.
func cgroupOf(pid int) string {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "/"
	}
	for line := range bytes.Lines(raw) {
		if group, ok := bytes.CutPrefix(line, []byte("0::")); ok {
			return string(bytes.TrimSpace(group))
		}
	}
	return "/"
}
