package ports

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tracing is the agent's own instance of the kernel's tracing, so that a person's use
// of it is not disturbed.
const tracing = "instances/banger"

// filter lets through TCP sockets (protocol 6) that begin to listen (state 10), or end
// to (7, TCP_CLOSE). Each connection that is accepted also leaves the state, for another.
const filter = "protocol == 6 && (newstate == 10 || (oldstate == 10 && newstate == 7))"

// settings are made in this order. Making them again changes nothing.
var settings = []struct{ file, value string }{
	{"buffer_size_kb", "16"},          // for each CPU; the default is 1.4 MB
	{"trace_options", "norecord-cmd"}, // else the kernel works at each switch of processes
	{"events/sock/inet_sock_set_state/filter", filter},
	{"events/sock/inet_sock_set_state/enable", "1"},
	{"tracing_on", "1"},
}

// openEvents returns the kernel's events about listening sockets of all network
// namespaces, one a line. tracefs is mounted nowhere, so nothing is left at the end.
func openEvents() (*os.File, error) {
	fs, err := mountTracing()
	if err != nil {
		return nil, fmt.Errorf("mount tracefs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.Mkdirat(fs, tracing, 0o700); err != nil && err != unix.EEXIST { // an earlier server's
		return nil, fmt.Errorf("make a tracing instance: %w", err)
	}
	for _, set := range settings {
		if err := write(fs, tracing+"/"+set.file, set.value); err != nil {
			return nil, fmt.Errorf("set %s: %w", set.file, err)
		}
	}
	fd, err := unix.Openat(fs, tracing+"/trace_pipe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open trace_pipe: %w", err)
	}
	return os.NewFile(uintptr(fd), "trace_pipe"), nil
}

func mountTracing() (int, error) {
	config, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(config)
	if err := unix.FsconfigCreate(config); err != nil {
		return -1, err
	}
	return unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

func write(dir int, path, value string) error {
	fd, err := unix.Openat(dir, path, unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}
