package ports

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// socket is a listening socket and its number.
type socket struct {
	wire.Listener
	inode uint32
}

// listening asks the kernel for the TCP sockets that listen (man 7 sock_diag).
func listening() ([]socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	defer unix.Close(fd)
	var all []socket
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		found, err := dump(fd, family)
		if err != nil && !(family == unix.AF_INET6 && err == unix.ENOENT) { // a kernel without IPv6
			return nil, fmt.Errorf("list listening sockets: %w", err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// sockDiagByFamily is SOCK_DIAG_BY_FAMILY, and tcpListen is TCP_LISTEN.
const (
	sockDiagByFamily = 20
	tcpListen        = 10
)

// tooMany bounds the sockets of one family: a report has wire.MaxListeners.
const tooMany = 16 << 10

func dump(fd int, family byte) ([]socket, error) {
	if err := unix.Sendto(fd, request(family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var all []socket
	buf := make([]byte, 32<<10) // of which the kernel fills no more at once
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		found, done, err := parse(buf[:n])
		if err != nil {
			return nil, err
		}
		if len(all) < tooMany {
			all = append(all, found...)
		}
		if done {
			return all, nil
		}
	}
}

// request is a struct inet_diag_req_v2 for all that listen, of any address.
func request(family byte) []byte {
	const size = unix.SizeofNlMsghdr + 56
	b := binary.NativeEndian.AppendUint32(nil, size)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, make([]byte, 8)...)
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 1<<tcpListen)
	return append(b, make([]byte, size-len(b))...)
}

// parse reads a part of the answer, and reports whether it is the last one.
func parse(b []byte) (found []socket, done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, false, err
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return found, true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) >= 4 {
				if code := int32(binary.NativeEndian.Uint32(m.Data)); code < 0 {
					return nil, false, unix.Errno(-code)
				}
			}
			return nil, false, errors.New("an answer without sockets")
		case sockDiagByFamily:
			if s, ok := parseSocket(m.Data); ok {
				found = append(found, s)
			}
		}
	}
	return found, false, nil
}

// Where fields are in a struct inet_diag_msg, and the attribute behind it that tells
// whether an IPv6 socket refuses IPv4.
const (
	offState, offPort, offAddr, offInode, sizeofMsg = 1, 4, 8, 68, 72
	attrOnly6                                       = 11
)

func parseSocket(b []byte) (s socket, ok bool) {
	if len(b) < sizeofMsg || b[offState] != tcpListen {
		return s, false
	}
	s.Port = binary.BigEndian.Uint16(b[offPort:])
	s.inode = binary.NativeEndian.Uint32(b[offInode:])
	switch b[0] {
	case unix.AF_INET:
		s.Addr = netip.AddrFrom4([4]byte(b[offAddr:]))
	case unix.AF_INET6:
		addr := netip.AddrFrom16([16]byte(b[offAddr:]))
		s.Addr = addr.Unmap()
		s.Dual = addr.IsUnspecified() && !only6(b[sizeofMsg:])
	}
	return s, s.Addr.IsValid() && s.Port > 0
}

func only6(attributes []byte) bool {
	for len(attributes) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(attributes))
		if size < unix.SizeofRtAttr || size > len(attributes) {
			return false
		}
		if binary.NativeEndian.Uint16(attributes[2:]) == attrOnly6 && size > unix.SizeofRtAttr {
			return attributes[unix.SizeofRtAttr] != 0
		}
		attributes = attributes[min(len(attributes), (size+3)&^3):]
	}
	return false
}

// ownSockets returns the numbers of this process's sockets.
func ownSockets() map[uint32]bool {
	own := map[uint32]bool{}
	files, _ := os.ReadDir("/proc/self/fd")
	for _, f := range files {
		target, _ := os.Readlink("/proc/self/fd/" + f.Name())
		number, ok := strings.CutPrefix(target, "socket:[")
		if n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32); ok && err == nil {
			own[uint32(n)] = true
		}
	}
	return own
}
