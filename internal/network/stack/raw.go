package stack

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of each connection and packet. None of them waits, and they are short,
// so Go's scheduler is not told: that would take a good part of the time of each, and wake
// a thread that looks after it.

func result(n, _ uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func connect(fd int, to *unix.RawSockaddrInet4) error {
	_, err := result(unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(to)), unix.SizeofSockaddrInet4))
	return err
}

func setOption(fd, level, name, value int) error {
	v := int32(value)
	_, err := result(unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&v)), 4, 0))
	return err
}

func shutdown(fd, how int) { unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0) }

func closeDescriptor(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func epollWait(fd int, events []unix.EpollEvent) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0))
}

func epollControl(epoll, how, fd int, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_, err := result(unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(how), uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0))
	return err
}

// unread returns how many bytes wait in a socket.
func unread(fd int) (int, error) {
	var n int32
	_, err := result(unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCINQ, uintptr(unsafe.Pointer(&n))))
	return int(n), err
}

// receive receives without waiting.
func receive(fd int, b []byte, flags int) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(flags|unix.MSG_DONTWAIT), 0, 0))
}

// read reads from a socket that has bytes.
func read(fd int, b []byte) (int, error) {
	if len(b) <= mostRaw {
		return receive(fd, b, 0)
	}
	return unix.Read(fd, b)
}

// mostRaw is how many bytes a call may move without telling the scheduler: more take long
// enough for another thread to work meanwhile.
const mostRaw = 4 << 10

func writev(fd int, parts []unix.Iovec, size int) (int, error) {
	if size <= mostRaw {
		return result(unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts))))
	}
	return result(unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts))))
}

func readv(fd int, parts []unix.Iovec) (int, error) {
	return result(unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts))))
}

// bigEndian returns a port as a socket address has it.
func bigEndian(port uint16) uint16 {
	b := [2]byte{byte(port >> 8), byte(port)}
	return *(*uint16)(unsafe.Pointer(&b))
}
