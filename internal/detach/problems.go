package detach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Problem is something that a process could not reset, and how a user can.
type Problem struct {
	What string
	Fix  string // one sentence
}

// freshShell is the fix for what only a new daemon has reset.
const freshShell = "banger daemon stop, then use banger from a shell without that; VMs that run keep it until they are restarted"

// mostOOMScore is what a desktop may give a user's programs.
const mostOOMScore = 200

// limits of the kernel's table that bound VMs, how much is enough (0: only no limit is),
// and what less does to them.
var limits = []struct {
	name, item string
	enough     uint64
	what       string
}{
	{"Max file size", "fsize", 0, "no file of a VM, its disks among them, can become larger than %s bytes"},
	{"Max address space", "as", 0, "a VM cannot use more than %s bytes of address space"},
	{"Max data size", "data", 0, "a VM cannot use more than %s bytes of memory"},
	{"Max cpu time", "cpu", 0, "a VM ends after %s seconds of CPU time"},
	{"Max open files", "nofile", 4096, "a VM cannot have more than %s files and connections open"},
	{"Max processes", "nproc", 512, "the user cannot have more than %s processes and threads, of which a VM needs several"},
}

// Problems returns what process pid could not reset. What this process has as well may
// be the host's own.
func Problems(pid int) ([]Problem, error) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	stat, err1 := os.ReadFile(proc + "stat")
	score, err2 := os.ReadFile(proc + "oom_score_adj")
	table, err3 := os.ReadFile(proc + "limits")
	status, err4 := os.ReadFile(proc + "status")
	group, err5 := os.ReadFile(proc + "cgroup")
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	problems := priorities(string(stat), strings.TrimSpace(string(score)))
	for _, limit := range limits {
		hard := hardLimit(string(table), limit.name)
		if n, err := strconv.ParseUint(hard, 10, 64); err == nil && (limit.enough == 0 || n < limit.enough) {
			problems = append(problems, Problem{fmt.Sprintf(limit.what, hard), fmt.Sprintf("remove the hard limit %s from /etc/security/limits.conf "+
				"or from the shell that starts banger, log in again, and: banger daemon stop", limit.item)})
		}
	}
	problems = append(problems, groupLimits("/sys/fs/cgroup", string(group))...)
	return append(problems, confinement(proc, string(status))...), nil
}

// priorities returns what is wrong with a process's scheduling.
func priorities(stat, score string) (problems []Problem) {
	_, rest, _ := strings.Cut(stat, ") ")
	if fields := strings.Fields(rest); len(fields) > 38 {
		const nice, policy = 16, 38
		if n, _ := strconv.Atoi(fields[nice]); n > 0 {
			problems = append(problems, Problem{fmt.Sprintf("VMs run with niceness %d, which a plain user cannot lower again", n), freshShell})
		}
		if fields[policy] != "0" {
			problems = append(problems, Problem{"VMs run with the scheduling policy " + fields[policy] + " (see sched(7))", freshShell})
		}
	}
	if n, _ := strconv.Atoi(score); n > mostOOMScore {
		problems = append(problems, Problem{fmt.Sprintf("VMs are among the first to be killed when memory is short: their oom_score_adj is %d", n), freshShell})
	}
	return problems
}

// groupLimits returns the limits of the control groups that a process is in, below a
// directory. Slices belong to the host or to the whole user, not to a shell.
func groupLimits(root, groups string) (problems []Problem) {
	for line := range strings.Lines(groups) {
		group, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for ; unified && len(group) > 1; group = filepath.Dir(group) {
			if strings.HasSuffix(group, ".slice") {
				continue
			}
			for _, file := range []string{"memory.max", "memory.high", "pids.max", "cpu.max", "cpuset.cpus"} {
				text, err := os.ReadFile(filepath.Join(root, group, file))
				limit := strings.TrimSpace(string(text))
				if err == nil && limit != "" && !strings.HasPrefix(limit, "max") {
					problems = append(problems, Problem{fmt.Sprintf("the control group %s limits the daemon: %s is %s", group, file, limit), freshShell})
				}
			}
		}
	}
	return problems
}

// confinement returns how a process is confined in a way that this one is not.
func confinement(proc, status string) (problems []Problem) {
	ours, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	if statusField(status, "NoNewPrivs") > 0 {
		problems = append(problems, Problem{"programs of the daemon get no rights of their own (no_new_privs), which the network of VMs may need", freshShell})
	}
	if statusField(status, "Seccomp_filters") > statusField(string(ours), "Seccomp_filters") {
		problems = append(problems, Problem{"system calls of the daemon and of VMs are filtered (seccomp)", freshShell})
	}
	for _, name := range []string{"ns/mnt", "ns/user", "ns/net", "ns/pid", "ns/ipc", "ns/uts", "ns/time", "ns/cgroup", "root"} {
		theirs, err1 := os.Readlink(proc + name)
		own, err2 := os.Readlink("/proc/self/" + name)
		if err1 == nil && err2 == nil && theirs != own {
			problems = append(problems, Problem{fmt.Sprintf("the daemon is in another place than this shell: its %s is %s, not %s", name, theirs, own), freshShell})
		}
	}
	label, _ := os.ReadFile(proc + "attr/current")
	own, _ := os.ReadFile("/proc/self/attr/current")
	if profile, enforced := strings.CutSuffix(strings.TrimRight(string(label), "\x00\n"), " (enforce)"); enforced && string(label) != string(own) {
		problems = append(problems, Problem{"the profile " + profile + " of AppArmor confines the daemon and its VMs", freshShell})
	}
	environ, err := os.ReadFile(proc + "environ")
	if err != nil {
		return problems
	}
	return append(problems, settings(strings.Split(string(environ), "\x00"), os.Environ())...)
}

// settings returns the variables of banger's that a daemon has, but this shell has not,
// and the other way round.
func settings(theirs, ours []string) (problems []Problem) {
	for _, entry := range theirs {
		if isSetting(entry) && !slices.Contains(ours, entry) {
			problems = append(problems, Problem{"the daemon has " + entry + " from the shell that started it", freshShell})
		}
	}
	for _, entry := range ours {
		if isSetting(entry) && !slices.Contains(theirs, entry) {
			problems = append(problems, Problem{"the daemon was started without " + entry, "banger daemon stop: the next one has it"})
		}
	}
	return problems
}

// isSetting reports whether an entry of an environment sets something of banger's.
func isSetting(entry string) bool {
	name, value, _ := strings.Cut(entry, "=")
	return strings.HasPrefix(name, "BANGER_") && value != ""
}

// statusField returns a number of /proc/PID/status, or 0.
func statusField(status, name string) int {
	for line := range strings.Lines(status) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			n, _ := strconv.Atoi(strings.TrimSpace(value))
			return n
		}
	}
	return 0
}

// hardLimit returns a hard limit from the kernel's table of a process's limits.
func hardLimit(table, name string) string {
	for line := range strings.Lines(table) {
		if values, found := strings.CutPrefix(line, name); found {
			if fields := strings.Fields(values); len(fields) > 1 {
				return fields[1]
			}
		}
	}
	return ""
}
