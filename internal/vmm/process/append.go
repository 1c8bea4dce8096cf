package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// AppendOnly makes the process append to the file from now on, for every descriptor
// that it has open to it. The host can forbid that (yama's ptrace_scope).
func (p *Process) AppendOnly(file os.FileInfo) error {
	fds := filepath.Join("/proc", strconv.Itoa(p.pid), "fd")
	names, err := os.ReadDir(fds)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name.Name())
		if err != nil {
			return err
		}
		if got, err := os.Stat(filepath.Join(fds, name.Name())); err != nil || !os.SameFile(got, file) {
			continue
		}
		if err := p.control(func(pidfd int) error { return appendOnly(pidfd, fd) }); err != nil {
			return fmt.Errorf("have process %d append: %w", p.pid, err)
		}
	}
	return nil
}

// appendOnly changes a descriptor of another process.
func appendOnly(pidfd, fd int) error {
	ours, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ours)
	flags, err := unix.FcntlInt(uintptr(ours), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(ours), unix.F_SETFL, flags|unix.O_APPEND)
	}
	return err
}
