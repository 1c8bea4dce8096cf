// Package detach frees a daemon from the shell that started it: resource limits,
// priorities, signals, credentials, environment. What the daemon starts later inherits the reset
// values. The package also reports what could not be reset. It does not know what the
// daemon is for.
package detach

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// needed are the variables that a daemon keeps: who it runs for, where that user's
// directories are, and what instrumented binaries read. BANGER* is kept as well.
var needed = []string{"HOME", "USER", "LOGNAME", "TZ", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME",
	"XDG_DATA_HOME", "XDG_RUNTIME_DIR", "GORACE", "GOCOVERDIR"}

// system are the directories of the host's own programs. A daemon uses those: a shell may
// have others of the same names, such as those of a Python environment.
var system = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// searchPath returns the PATH of a daemon: the system's directories, and after them those
// of a shell for what the system does not have.
func searchPath(shell string) string {
	dirs := slices.Clone(system)
	for _, dir := range filepath.SplitList(shell) {
		if filepath.IsAbs(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return strings.Join(dirs, string(filepath.ListSeparator))
}

// Environ returns the part of an environment that a daemon needs.
func Environ(env []string) []string {
	kept, shell := []string{}, ""
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if name == "PATH" {
			shell = value
		}
		for _, need := range needed {
			if name == need || strings.HasPrefix(name, "BANGER") {
				kept = append(kept, entry)
				break
			}
		}
	}
	return append(kept, "PATH="+searchPath(shell))
}

// stackSize is the usual limit of a stack. Without any limit, programs lay out their
// memory differently.
const stackSize = 8 << 20

// mostFiles is the usual hard limit of open files. The kernel has an upper bound for it.
const mostFiles = 524288

// highest returns the highest hard limit that a resource is raised to where that is
// allowed, which is to root: ulimit sets both limits at once.
func highest(resource int, hard uint64) uint64 {
	switch resource {
	case unix.RLIMIT_CORE, unix.RLIMIT_NICE, unix.RLIMIT_RTPRIO: // higher ones allow more, and help no VM
		return hard
	case unix.RLIMIT_NOFILE:
		return max(hard, mostFiles)
	}
	return unix.RLIM_INFINITY
}

// Limits raises the soft resource limits of this process, and of the processes that it
// starts from now on, to the hard ones, and those as far as it may. The stack gets its
// usual size, and there are no core files: a VMM's would contain the guest's memory. It
// may be called again.
func Limits() error {
	for resource := unix.RLIMIT_CPU; resource <= unix.RLIMIT_RTTIME; resource++ {
		// The wrapper of package syscall, or Go gives its children the limit of open
		// files that it was started with.
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(resource, &limit); err != nil {
			return os.NewSyscallError("getrlimit", err)
		}
		before := limit
		if top := highest(resource, limit.Max); top > limit.Max && syscall.Setrlimit(resource, &syscall.Rlimit{Cur: limit.Cur, Max: top}) == nil {
			limit.Max = top
		}
		limit.Cur = limit.Max
		switch resource {
		case unix.RLIMIT_CORE:
			limit.Cur = 0
		case unix.RLIMIT_STACK:
			limit.Cur = min(stackSize, limit.Max)
		}
		if limit == before && resource != unix.RLIMIT_NOFILE {
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
	resetCredentials()
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
}

// resetMemory resets how the kernel places and maps memory.
func resetMemory() {
	const anyNode = 0
	unix.RawSyscall(unix.SYS_SET_MEMPOLICY, anyNode, 0, 0)
	unix.RawSyscall(unix.SYS_PERSONALITY, 0, 0, 0)
	const usualSlack = 50_000 // nanoseconds
	for _, setting := range []struct {
		option int
		value  uintptr
	}{
		{unix.PR_SET_TIMERSLACK, usualSlack}, {unix.PR_SET_THP_DISABLE, 0}, {unix.PR_SET_MEMORY_MERGE, 0},
		{unix.PR_MCE_KILL, unix.PR_MCE_KILL_CLEAR}, {unix.PR_SET_TSC, unix.PR_TSC_ENABLE}, {unix.PR_SET_IO_FLUSHER, 0},
	} {
		unix.Prctl(setting.option, setting.value, 0, 0, 0)
	}
	resetCPU()
}

// resetCPU resets what a program may do on the CPU, and how fast that is.
func resetCPU() {
	for _, flaw := range []int{unix.PR_SPEC_STORE_BYPASS, unix.PR_SPEC_INDIRECT_BRANCH} {
		unix.Prctl(unix.PR_SET_SPECULATION_CTRL, uintptr(flaw), unix.PR_SPEC_ENABLE, 0, 0)
	}
	const setCPUID, allowed = 0x1012, 1 // of <asm/prctl.h>
	unix.RawSyscall(unix.SYS_ARCH_PRCTL, setCPUID, allowed, 0)
}

// resetCredentials drops the capabilities and the keys that a shell has handed on. Root
// gets those of its own when it executes a program.
func resetCredentials() {
	unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0)
	unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if unix.Capget(&header, &sets[0]) == nil {
		sets[0].Inheritable, sets[1].Inheritable = 0, 0
		unix.Capset(&header, &sets[0])
	}
	// A login's keyring is revoked at its end; the user's own is not.
	const anonymous = 0
	if _, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, anonymous, 0); errno == 0 {
		unix.KeyctlInt(unix.KEYCTL_LINK, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_SESSION_KEYRING, 0, 0)
	}
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
