package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The sockets on which process 1 speaks to the server are made before the init
// starts and held by the server's parent, so that nothing is lost while there
// is no server.

// Descriptors that the parent is given and hands to each server.
const (
	fdNotify = 3
	fdBye    = 4
)

// listenNotify makes the datagram socket. It queues as much as systemd itself
// would allow: a full queue would stop process 1.
func listenNotify() (*os.File, error) {
	os.WriteFile("/proc/sys/net/unix/max_dgram_qlen", []byte("512"), 0)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make notify socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), notifySocket)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: notifySocket}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind notify socket: %w", err), f.Close())
	}
	return f, nil
}

func listenBye() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make bye socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), byeSocket)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: byeSocket}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind bye socket: %w", err), f.Close())
	}
	if err := unix.Listen(fd, 4); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on bye socket: %w", err), f.Close())
	}
	return f, nil
}

// readNotify gives each datagram of process 1 to hear, for ever.
func readNotify(f *os.File, hear func(string)) error {
	conn, err := net.FilePacketConn(f)
	if err != nil {
		return fmt.Errorf("read notify socket: %w", err)
	}
	defer conn.Close()
	socket := conn.(*net.UnixConn)
	data, control := make([]byte, 8<<10), make([]byte, 512)
	for {
		n, c, _, _, err := socket.ReadMsgUnix(data, control)
		if err != nil {
			return fmt.Errorf("read notify socket: %w", err)
		}
		if fromFirst(control[:c]) {
			hear(string(data[:n]))
		}
	}
}

// fromFirst says whether a message carries the credentials of process 1. It
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

// acceptBye waits for the last stage and calls bye with its verb.
func acceptBye(f *os.File, bye func(verb string)) error {
	listener, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("accept bye: %w", err)
	}
	defer listener.Close()
	for {
		conn, err := accept(listener)
		if err != nil {
			return fmt.Errorf("accept bye: %w", err)
		}
		socket := conn.(*net.UnixConn)
		buf := make([]byte, 64)
		if peerOf(socket) == 1 {
			if n, err := socket.Read(buf); err == nil {
				bye(strings.TrimSpace(string(buf[:n])))
			}
		}
		conn.Close()
	}
}

func peerOf(c *net.UnixConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
