package shutdown

import (
	"bytes"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// verbs holds how each verb is asked of systemd, of the agent as process 1 (which
// takes the same signals as busybox's init) and of the kernel.
var verbs = map[wire.Verb]struct {
	systemd, own unix.Signal
	reboot       int
}{
	wire.Poweroff: {sigRTMin + 4, unix.SIGUSR2, unix.LINUX_REBOOT_CMD_POWER_OFF},
	wire.Reboot:   {sigRTMin + 5, unix.SIGTERM, unix.LINUX_REBOOT_CMD_RESTART},
	wire.Halt:     {sigRTMin + 3, unix.SIGUSR1, unix.LINUX_REBOOT_CMD_POWER_OFF}, // a halted VM would stay for ever
}

// sigRTMin is SIGRTMIN in C libraries: they use the first two signals themselves.
const sigRTMin = unix.Signal(34)

// remountTime bounds the kernel's emergency remount.
const remountTime = 10 * time.Second

// remountReadOnly makes the kernel write out all disks and mount them read-only,
// even if programs use them, which leaves them clean. It waits until the kernel
// logs that it has.
func remountReadOnly() {
	records, err := log.Records()
	if err != nil {
		return
	}
	defer records.Close()
	records.Seek(0, io.SeekEnd)
	records.SetReadDeadline(time.Now().Add(remountTime))
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0); err != nil {
		return
	}
	record := make([]byte, 8<<10)
	for {
		n, err := records.Read(record)
		if errors.Is(err, unix.EPIPE) {
			continue // records were overwritten before they were read
		}
		if err != nil || bytes.Contains(record[:n], []byte("Emergency Remount complete")) {
			return
		}
	}
}

// EndMachine asks the kernel for the end. It returns only if the kernel refuses.
func EndMachine(verb wire.Verb, resetToOff bool) {
	err := unix.Reboot(rebootCommand(verb, resetToOff))
	log.Errorf("end the machine: %v", err)
}

// rebootCommand returns what to ask of the kernel for a verb.
func rebootCommand(verb wire.Verb, resetToOff bool) int {
	if known, ok := verbs[verb]; ok && !resetToOff {
		return known.reboot
	}
	return unix.LINUX_REBOOT_CMD_RESTART
}
