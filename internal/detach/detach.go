// Package detach frees a daemon from the shell that started it: resource limits,
// priorities, signals, environment. What the daemon starts later inherits the reset
// values. The package also reports what could not be reset. It does not know what the
// daemon is for.
package detach

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// needed are the variables that a daemon keeps: who it runs for, where that user's
// directories and programs are, and what instrumented binaries read. BANGER* is kept
// as well.
var needed = []string{"HOME", "USER", "LOGNAME", "PATH", "TZ", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME",
	"XDG_DATA_HOME", "XDG_RUNTIME_DIR", "GORACE", "GOCOVERDIR"}

// Environ returns the part of an environment that a daemon needs.
func Environ(env []string) []string {
	kept := []string{}
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		for _, need := range needed {
			if name == need || strings.HasPrefix(name, "BANGER") {
				kept = append(kept, entry)
				break
			}
		}
	}
	return kept
}

// stackSize is the usual limit of a stack. Without any limit, programs lay out their
// memory differently.
const stackSize = 8 << 20

// Limits raises the soft resource limits of this process, and of the processes that it
// starts from now on, to the hard ones. The stack gets its usual size, and there are no
// core files: a VMM's would contain the guest's memory. It may be called again.
func Limits() error {
	for resource := unix.RLIMIT_CPU; resource <= unix.RLIMIT_RTTIME; resource++ {
		// The wrapper of package syscall, or Go gives its children the limit of open
		// files that it was started with.
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(resource, &limit); err != nil {
			return os.NewSyscallError("getrlimit", err)
		}
		before := limit.Cur
		switch resource {
		case unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_AS: // a shell sets both at once
			if syscall.Setrlimit(resource, &syscall.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}) == nil {
				continue // only root may raise a hard limit
			}
			limit.Cur = limit.Max
		case unix.RLIMIT_CORE:
			limit.Cur = 0
		case unix.RLIMIT_STACK:
			limit.Cur = min(stackSize, limit.Max)
		default:
			limit.Cur = limit.Max
		}
		if limit.Cur == before && resource != unix.RLIMIT_NOFILE {
			continue
		}
		if err := syscall.Setrlimit(resource, &limit); err != nil {
			return os.NewSyscallError("setrlimit", err)
		}
	}
	return nil
}

// Exec resets what a process inherits and starts the program again in its place, with
// these arguments and this environment. It returns only if that fails, and then the
// process must end. Descriptors that are not close-on-exec stay open.
func Exec(args, env []string) error {
	// A new program has one thread, with the attributes of the one that calls exec.
	runtime.LockOSThread()
	// Before the niceness: a limit says how low that may be.
	if err := Limits(); err != nil {
		return err
	}
	unix.Umask(0o077)
	resetPriorities()
	resetMemory()
	if err := resetSignals(); err != nil {
		return err
	}
	return os.NewSyscallError("execve", syscall.Exec("/proc/self/exe", args, env))
}

// resetPriorities sets what it may: Problems reports the rest.
func resetPriorities() {
	for _, score := range []int{0, 100, 200} { // a login session may have a least one
		if os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0) == nil {
			break
		}
	}
	normal := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if unix.SchedSetAttr(0, &normal, 0) != nil {
		if nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
			normal.Nice = int32(20 - nice) // the system call counts from 40 down
			unix.SchedSetAttr(0, &normal, 0)
		}
	}
	const none, process = 0, 1 // of <linux/ioprio.h>: the class follows the niceness
	unix.RawSyscall(unix.SYS_IOPRIO_SET, process, 0, none)
	var all unix.CPUSet
	for i := range all {
		all[i] = ^all[i]
	}
	unix.SchedSetaffinity(0, &all)
	const usualSlack = 50_000 // nanoseconds
	unix.Prctl(unix.PR_SET_TIMERSLACK, usualSlack, 0, 0, 0)
}

// resetMemory resets how the kernel places and maps memory.
func resetMemory() {
	const anyNode = 0
	unix.RawSyscall(unix.SYS_SET_MEMPOLICY, anyNode, 0, 0)
	unix.RawSyscall(unix.SYS_PERSONALITY, 0, 0, 0)
	unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0)
}

// resetSignals unblocks all signals and gives each its default action: Go keeps a
// SIGHUP ignored, and starts its threads with the mask that it found.
func resetSignals() error {
	var byDefault [4]uint64 // struct sigaction of the kernel
	for signal := uintptr(1); signal <= 64; signal++ {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
		if errno != 0 && errno != unix.EINVAL { // SIGKILL and SIGSTOP have no other
			return os.NewSyscallError("rt_sigaction", errno)
		}
	}
	return os.NewSyscallError("sigprocmask", unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil))
}

// Problem is something that a process could not reset, and how a user can.
type Problem struct {
	What string
	Fix  string // one sentence
}

// freshShell is the fix for what only a new daemon has reset.
const freshShell = "banger daemon stop, then use banger from a shell without that; VMs that run keep it until they are restarted"

// mostOOMScore is what a desktop may give a user's programs.
const mostOOMScore = 200

// limits of the kernel's table that bound VMs, and what each does to them.
var limits = []struct{ name, item, what string }{
	{"Max file size", "fsize", "no file of a VM, its disks among them, can become larger than %s bytes"},
	{"Max address space", "as", "a VM cannot use more than %s bytes of address space"},
	{"Max data size", "data", "a VM cannot use more than %s bytes of memory"},
	{"Max cpu time", "cpu", "a VM ends after %s seconds of CPU time"},
}

// Problems returns what process pid could not reset.
func Problems(pid int) ([]Problem, error) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	stat, err1 := os.ReadFile(proc + "stat")
	score, err2 := os.ReadFile(proc + "oom_score_adj")
	table, err3 := os.ReadFile(proc + "limits")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	var problems []Problem
	_, rest, _ := strings.Cut(string(stat), ") ")
	if fields := strings.Fields(rest); len(fields) > 38 {
		const nice, policy = 16, 38
		if n, _ := strconv.Atoi(fields[nice]); n > 0 {
			problems = append(problems, Problem{fmt.Sprintf("VMs run with niceness %d, which a plain user cannot lower again", n), freshShell})
		}
		if fields[policy] != "0" {
			problems = append(problems, Problem{"VMs run with the scheduling policy " + fields[policy] + " (see sched(7))", freshShell})
		}
	}
	if n, _ := strconv.Atoi(strings.TrimSpace(string(score))); n > mostOOMScore {
		problems = append(problems, Problem{fmt.Sprintf("VMs are among the first to be killed when memory is short: their oom_score_adj is %d", n), freshShell})
	}
	for _, limit := range limits {
		if hard := hardLimit(string(table), limit.name); hard != "" && hard != "unlimited" {
			problems = append(problems, Problem{fmt.Sprintf(limit.what, hard), fmt.Sprintf("remove the hard limit %s from /etc/security/limits.conf "+
				"or from the shell that starts banger, log in again, and: banger daemon stop", limit.item)})
		}
	}
	return problems, nil
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
