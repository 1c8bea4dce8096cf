package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// KillTime bounds how long killed processes may take to disappear.
const KillTime = 2 * time.Second

// EndAll signals every process except the kernel's, its own and those whose name
// begins with @. It returns when they are gone or the time is over.
func EndAll(sig unix.Signal, within time.Duration) {
	pids := others()
	for _, pid := range pids {
		unix.Kill(pid, sig)
		unix.Kill(pid, unix.SIGCONT)
	}
	WaitGone(pids, within)
}

// others lists the processes that EndAll ends.
func others() []int {
	var pids []int
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		// The kernel's own processes have no arguments.
		args, err := os.ReadFile(name + "/cmdline")
		if err == nil && len(args) > 0 && args[0] != '@' {
			pids = append(pids, pid)
		}
	}
	return pids
}

// WaitGone waits until the processes have ended or the time is over.
func WaitGone(pids []int, within time.Duration) {
	end := time.Now().Add(within)
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it is gone
		}
		AwaitReadable(fd, end)
		unix.Close(fd)
	}
}

// AwaitReadable waits until a descriptor is readable, at most until end.
func AwaitReadable(fd int, end time.Time) {
	for {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != unix.EINTR {
			return
		}
	}
}

// spareDir is where sysvinit's scripts look for processes not to kill.
const spareDir = "/run/sendsigs.omit.d"

// MakeSpareDir makes sysvinit's directory of processes not to kill, inside root.
func MakeSpareDir(root string) error { return os.MkdirAll(root+spareDir, 0o755) }

// Spare keeps sysvinit's scripts from killing one of the agent's processes.
func Spare(name string, pid int) {
	os.WriteFile(spareDir+"/banger-"+name, fmt.Appendln(nil, pid), 0o644)
}
