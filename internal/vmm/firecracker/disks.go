package firecracker

import (
	"bufio"
	"context"
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/internal/linux"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// saysDiskError matches what Firecracker logs when the host could not read or write a
// disk. The guest then gets an I/O error. The line does not name the disk. Without a code
// the guest's request was invalid.
var saysDiskError = regexp.MustCompile(`Failed to execute (?:In|Out|Flush) virtio block request: .*\bcode: (\d+)`)

// noteDiskErrors reports the disk errors in the log at path, until ctx ends. If the
// host has no inotify watch left, it reports those that are there already.
func (m *machine) noteDiskErrors(ctx context.Context, path string) {
	written := make(chan struct{}, 1)
	stop, err := linux.Watch(path, unix.IN_MODIFY, written)
	m.scanLog(path)
	if err != nil {
		return
	}
	defer stop()
	for {
		select {
		case <-written:
			for _, line := range process.LastLines(path, 0) {
				m.noteDiskError(line)
			}
		case <-ctx.Done():
			return
		}
	}
}

// scanLog reports the disk errors of the whole log: an earlier daemon may have seen
// them.
func (m *machine) scanLog(path string) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		m.noteDiskError(lines.Text())
	}
}

func (m *machine) noteDiskError(line string) {
	if found := saysDiskError.FindStringSubmatch(line); found != nil {
		code, _ := strconv.Atoi(found[1])
		m.Failed(vmm.DiskError{Errno: unix.Errno(code)})
	}
}
