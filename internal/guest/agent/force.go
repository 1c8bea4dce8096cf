package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// force ends the machine in place of an init that has not: process 1 is frozen
// so that it starts nothing anew, everything else is killed, and the kernel
// makes the disks read-only, which leaves them clean.
func (s *server) force(verb wire.Verb, why string) {
	logf(prioError, "%s: end it without", why)
	if group := groupOf(1); group != "/" {
		os.WriteFile(cgroupRoot+group+"/cgroup.freeze", []byte("1"), 0)
	}
	killSessions()
	endProcesses(unix.SIGKILL, killTime)
	unix.Sync()
	remountReadOnly()
	// Last: the host does not wait long after a bye, and takes it for a clean end.
	disks := s.disks.errors()
	sayDiskErrors(s.config.Nonce, disks)
	sayOnConsole(wire.ConsoleBye + s.config.Nonce + " " + string(verb) + " " + why)
	s.control.bye(wire.Event{Kind: wire.EventBye, Verb: verb, Nonce: s.config.Nonce, Why: why, Disks: disks}, byeTime)
	endMachine(verb, s.config.ResetToOff)
}

// groupOf is the control group of a process, seen from the root.
func groupOf(pid int) string {
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

// killTime bounds how long killed processes may take to be gone.
const killTime = 2 * time.Second

// endProcesses signals every process but the kernel's, our own and those whose
// name begins with @, and waits until they are gone or the time is over.
func endProcesses(sig unix.Signal, within time.Duration) {
	pids := others()
	for _, pid := range pids {
		unix.Kill(pid, sig)
		unix.Kill(pid, unix.SIGCONT)
	}
	waitGone(pids, within)
}

// others lists the processes that a last stage ends.
func others() []int {
	var pids []int
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		// The kernel's own have no arguments.
		args, err := os.ReadFile(name + "/cmdline")
		if err == nil && len(args) > 0 && args[0] != '@' {
			pids = append(pids, pid)
		}
	}
	return pids
}

// waitGone waits until the processes have ended or the time is over.
func waitGone(pids []int, within time.Duration) {
	end := time.Now().Add(within)
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it is gone
		}
		awaitReadable(fd, end)
		unix.Close(fd)
	}
}

// awaitReadable waits for a descriptor until end.
func awaitReadable(fd int, end time.Time) {
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

// remountTime bounds the kernel's emergency remount.
const remountTime = 10 * time.Second

// remountReadOnly makes the kernel write out and close all disks, whoever uses
// them, and waits until its log says that it has.
func remountReadOnly() {
	log, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(log)
	unix.Seek(log, 0, unix.SEEK_END)
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0); err != nil {
		return
	}
	end := time.Now().Add(remountTime)
	record := make([]byte, 8<<10)
	for time.Now().Before(end) {
		n, err := unix.Read(log, record)
		switch {
		case err == unix.EAGAIN:
			awaitReadable(log, end)
		case err == unix.EPIPE: // records were overwritten
		case err != nil:
			return
		case bytes.Contains(record[:n], []byte("Emergency Remount complete")):
			return
		}
	}
}

// endMachine is the very end. It returns only when the kernel refuses.
func endMachine(verb wire.Verb, resetToOff bool) {
	err := unix.Reboot(rebootCommand(verb, resetToOff))
	logf(prioError, "end the machine: %v", err)
}

// rebootCommand is what to ask of the kernel for a verb.
func rebootCommand(verb wire.Verb, resetToOff bool) int {
	if known, ok := verbs[verb]; ok && !resetToOff {
		return known.reboot
	}
	return unix.LINUX_REBOOT_CMD_RESTART
}
