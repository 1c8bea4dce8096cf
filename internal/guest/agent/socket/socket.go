// Package socket owns how others reach the agent in a guest: the two sockets on
// which process 1 speaks to the server, and the serial ports and the vsock that
// carry the host's streams. It does not interpret what the streams carry.
package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/layout"
	"banger/internal/linux"
)

// The boot makes process 1's sockets before the init starts, and the server's
// keeper has them open as well: nothing is lost while there is no server.

// Descriptors that each server and its keeper have.
const (
	FDNotify = 3
	FDBye    = 4
)

// Inherited returns a descriptor that this process was started with. Programs that it
// starts do not inherit it.
func Inherited(fd int, name string) *os.File {
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// ListenNotify makes the datagram socket for the init's notifications. It queues as
// much as systemd itself would allow: a full queue would stop process 1.
func ListenNotify() (*os.File, error) {
	os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte("512"), 0)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make notify socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), layout.NotifySocket)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: layout.NotifySocket}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind notify socket: %w", err), f.Close())
	}
	return f, nil
}

// ListenBye makes the socket on which the last stage says how the machine ends.
func ListenBye() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make bye socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), layout.ByeSocket)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: layout.ByeSocket}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind bye socket: %w", err), f.Close())
	}
	if err := unix.Listen(fd, 4); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on bye socket: %w", err), f.Close())
	}
	return f, nil
}

// ReadNotify passes each datagram of process 1 to hear, until the socket fails.
func ReadNotify(f *os.File, hear func(string)) error {
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return fmt.Errorf("read notify socket: %w", err)
	}
	defer conn.Close()
	unixConn := conn.(*net.UnixConn)
	data, control := make([]byte, 8<<10), make([]byte, 512)
	for {
		n, c, _, _, err := unixConn.ReadMsgUnix(data, control)
		if err != nil {
			return fmt.Errorf("read notify socket: %w", err)
		}
		if fromFirst(control[:c]) {
			hear(string(data[:n]))
		}
	}
}

// fromFirst reports whether a message carries the credentials of process 1. It
// closes descriptors that came along.
func fromFirst(control []byte) bool {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return false
	}
	first := false
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			first = cred.Pid == 1
		}
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
	return first
}

// AcceptBye waits for the last stage and calls bye with its verb.
func AcceptBye(f *os.File, bye func(verb string)) error {
	listener, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("accept bye: %w", err)
	}
	defer listener.Close()
	for {
		conn, err := Accept(listener)
		if err != nil {
			return fmt.Errorf("accept bye: %w", err)
		}
		unixConn := conn.(*net.UnixConn)
		buf := make([]byte, 64)
		if peer, err := linux.Peer(unixConn); err == nil && peer.Pid == 1 {
			if n, err := unixConn.Read(buf); err == nil {
				bye(strings.TrimSpace(string(buf[:n])))
			}
		}
		conn.Close()
	}
}
