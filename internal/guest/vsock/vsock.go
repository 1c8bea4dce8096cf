// Package vsock is the guest's end of a virtio vsock: a listener that accepts only the
// host's connections, and a knock that tells the host that the guest serves. The
// host's end belongs to the VMM's driver.
package vsock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Host is the host's address.
const Host = unix.VMADDR_CID_HOST

// Addr is an address on a vsock.
type Addr struct{ CID, Port uint32 }

// Network implements net.Addr.
func (Addr) Network() string { return "vsock" }

// String implements net.Addr.
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// Listener accepts the host's connections to one port.
type Listener struct {
	file    *os.File
	addr    Addr
	allowed func(unix.Sockaddr) bool
}

// Listen listens on a port. The error is fs.ErrNotExist if there is no vsock.
func Listen(port uint32) (*Listener, error) {
	own, err := localCID()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make vsock: %w", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err == nil {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, err)
	}
	return newListener(fd, Addr{own, port}, fromHost), nil
}

// newListener takes over a listening descriptor in non-blocking mode.
func newListener(fd int, addr Addr, allowed func(unix.Sockaddr) bool) *Listener {
	return &Listener{file: os.NewFile(uintptr(fd), "vsock "+addr.String()), addr: addr, allowed: allowed}
}

// fromHost reports whether a peer is the host: the guest's own programs can connect,
// too.
func fromHost(peer unix.Sockaddr) bool {
	vm, ok := peer.(*unix.SockaddrVM)
	return ok && vm.CID == Host
}

// localCID returns the guest's own address. A kernel without a device has none.
func localCID() (uint32, error) {
	device, err := os.Open("/dev/vsock")
	if err != nil {
		return 0, err
	}
	defer device.Close()
	cid, err := unix.IoctlGetUint32(int(device.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	if err != nil {
		return 0, fmt.Errorf("read the address on the vsock: %w", err)
	}
	if cid <= Host || cid == unix.VMADDR_CID_ANY {
		return 0, fmt.Errorf("this machine has no vsock device: %w", fs.ErrNotExist)
	}
	return cid, nil
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var fd int
		var peer unix.Sockaddr
		waited := raw.Read(func(listening uintptr) bool {
			fd, peer, err = unix.Accept4(int(listening), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return err != unix.EAGAIN
		})
		switch {
		case waited != nil:
			return nil, fmt.Errorf("accept on %s: %w", l.file.Name(), net.ErrClosed)
		case err == unix.EINTR || err == unix.ECONNABORTED:
			continue
		case err != nil:
			return nil, fmt.Errorf("accept on %s: %w", l.file.Name(), err)
		case l.allowed(peer):
			return newConn(fd, l.addr, peer), nil
		}
		unix.Close(fd)
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error { return l.file.Close() }

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }

// conn is a connection. There is no half-close on a vsock.
type conn struct {
	file          *os.File
	local, remote Addr
}

func newConn(fd int, local Addr, peer unix.Sockaddr) *conn {
	c := &conn{file: os.NewFile(uintptr(fd), "vsock"), local: local}
	if vm, ok := peer.(*unix.SockaddrVM); ok {
		c.remote = Addr{vm.CID, vm.Port}
	}
	return c
}

func (c *conn) Read(b []byte) (int, error)         { return c.file.Read(b) }
func (c *conn) Write(b []byte) (int, error)        { return c.file.Write(b) }
func (c *conn) Close() error                       { return c.file.Close() }
func (c *conn) LocalAddr() net.Addr                { return c.local }
func (c *conn) RemoteAddr() net.Addr               { return c.remote }
func (c *conn) SetDeadline(t time.Time) error      { return c.file.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.file.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }

// knockTime bounds a knock. The host answers or refuses it at once.
var knockTime = unix.Timeval{Sec: 2}

// Knock connects to a port of the host and hangs up. A host that does not listen
// misses it, and finds out by connecting itself.
func Knock(port uint32) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make vsock: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &knockTime); err != nil {
		return fmt.Errorf("set the knock's time limit: %w", err)
	}
	for {
		err := unix.Connect(fd, &unix.SockaddrVM{CID: Host, Port: port})
		switch {
		case err == nil || errors.Is(err, unix.EISCONN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		}
		return fmt.Errorf("knock at the host's port %d: %w", port, err)
	}
}
