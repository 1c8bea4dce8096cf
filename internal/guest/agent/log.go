package agent

import (
	"bytes"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// kmsg is where the agent logs: the kernel's log reaches the console and the
// image's journal, and needs no file system. It is nil in tests.
var kmsg struct {
	sync.Mutex
	file *os.File
}

func openLog() {
	kmsg.Lock()
	defer kmsg.Unlock()
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		kmsg.file = f
	}
}

// Priorities of the kernel's log.
const (
	prioError = 3
	prioInfo  = 6
)

func logf(prio int, format string, args ...any) {
	kmsg.Lock()
	defer kmsg.Unlock()
	if kmsg.file == nil {
		return
	}
	line := fmt.Appendf(nil, "<%d>banger: "+format, append([]any{prio}, args...)...)
	kmsg.file.Write(append(bytes.ReplaceAll(line, []byte("\n"), []byte(" ")), '\n'))
}

// sayOnConsole prints a line of its own on the console and waits until it is out.
func sayOnConsole(line string) {
	fd, err := unix.Open("/dev/console", unix.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	unix.Write(fd, []byte("\n"+line+"\n"))
	drain(fd)
}

// drain is tcdrain(3).
func drain(fd int) { unix.IoctlSetInt(fd, unix.TCSBRK, 1) }
