// Package log writes the agent's messages to the kernel's log, and its own lines
// to the console. It does not know what they say.
package log

import (
	"bytes"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// kmsg is the kernel's log. It reaches the console and the image's journal, and
// needs no file system. It is nil in tests.
var kmsg struct {
	sync.Mutex
	file *os.File
}

// Open opens the kernel's log. Messages before that are dropped.
func Open() {
	kmsg.Lock()
	defer kmsg.Unlock()
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		kmsg.file = f
	}
}

// Errorf logs an error.
func Errorf(format string, args ...any) { write(3, format, args) }

// Infof logs a message that is not an error.
func Infof(format string, args ...any) { write(6, format, args) }

func write(priority int, format string, args []any) {
	kmsg.Lock()
	defer kmsg.Unlock()
	if kmsg.file == nil {
		return
	}
	line := fmt.Appendf(nil, "<%d>banger: "+format, append([]any{priority}, args...)...)
	kmsg.file.Write(append(bytes.ReplaceAll(line, []byte("\n"), []byte(" ")), '\n'))
}

// Console prints a line of its own on the console and waits until it is out.
func Console(line string) {
	fd, err := unix.Open("/dev/console", unix.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	unix.Write(fd, []byte("\n"+line+"\n"))
	unix.IoctlSetInt(fd, unix.TCSBRK, 1) // tcdrain(3)
}
