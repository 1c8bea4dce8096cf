package vmmtest

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// limitFiles bounds how large a file may be that a process writes to. Root does it as
// the process's own user: root of a container may not do it itself.
func limitFiles(pid int, size uint64) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	var ids []int
	for _, found := range regexp.MustCompile(`(?m)^[UG]id:\t(\d+)`).FindAllSubmatch(status, 2) {
		id, err := strconv.Atoi(string(found[1]))
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its user
		done <- limitAs(ids[0], ids[1], pid, size)
	}()
	return <-done
}

func limitAs(uid, gid, pid int, size uint64) error {
	if uid != os.Geteuid() {
		for _, set := range []struct{ call, id uintptr }{{unix.SYS_SETRESGID, uintptr(gid)}, {unix.SYS_SETRESUID, uintptr(uid)}} {
			if _, _, errno := unix.RawSyscall(set.call, set.id, set.id, set.id); errno != 0 {
				return errno
			}
		}
	}
	return unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: unix.RLIM_INFINITY}, nil)
}
