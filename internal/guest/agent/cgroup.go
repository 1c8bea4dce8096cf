package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The control groups of the agent. systemd leaves them alone; in its own it
// would kill their processes when it stops.
const (
	cgroupRoot     = "/sys/fs/cgroup"
	cgroupServer   = cgroupRoot + "/banger/agent"
	cgroupSessions = cgroupRoot + "/banger/sessions"
)

func makeCgroups() error {
	for _, dir := range []string{cgroupServer, cgroupSessions} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
	}
	return nil
}

// processesOf lists the processes of a control group and those below it.
func processesOf(group string) []int {
	var pids []int
	filepath.WalkDir(group, func(path string, d os.DirEntry, err error) error {
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

// askSessions asks the sessions to end and returns their processes: an
// interactive shell hears only HUP, most programs TERM.
func askSessions() []int {
	pids := processesOf(cgroupSessions)
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGTERM)
		unix.Kill(pid, unix.SIGHUP)
		unix.Kill(pid, unix.SIGCONT)
	}
	return pids
}

// killSessions ends all of them. systemd would wait 90 s for those that
// ignore TERM: they are in none of its units.
func killSessions() {
	os.WriteFile(cgroupSessions+"/cgroup.kill", []byte("1"), 0)
}
