package linux

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// WatchRoutes sends to ring, if that has room, whenever an IPv4 route or address comes or
// goes in this network namespace. A ring with room for one value misses nothing. It ends
// with stop, which may be called twice.
func WatchRoutes(ring chan<- struct{}) (stop func(), err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV4_IFADDR}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch routes: %w", os.NewSyscallError("bind", err))
	}
	socket := os.NewFile(uintptr(fd), "routes")
	go func() {
		for messages := make([]byte, 64<<10); ; {
			_, err := socket.Read(messages)
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // then there were too many to keep
				return
			}
			select {
			case ring <- struct{}{}:
			default:
			}
		}
	}()
	return func() { socket.Close() }, nil
}
