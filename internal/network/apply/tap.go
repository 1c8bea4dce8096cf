package apply

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/network"
)

const tunDevice = "/dev/net/tun"

// openTap creates a TAP, which lives as long as the file unless it is told to stay. The
// library cannot do this: it gives each TAP to group 0, so that its owner could not open
// it without being in that group.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, tunClosed(err)
	}
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte // the rest of struct ifreq
	}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	req.flags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
		unix.Close(fd)
		return nil, fmt.Errorf("create TAP %s: %w", name, errno)
	}
	return os.NewFile(uintptr(fd), name), nil // after TUNSETIFF: before it the descriptor cannot be polled
}

func ioctl(file *os.File, request, arg uintptr) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	if err := raw.Control(func(fd uintptr) { _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, arg) }); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// OpenUplink creates the TAP between the current network namespace and the user-mode
// stack, configures the namespace's end of it, and returns the stack's end: frames with
// a struct virtio_net_hdr in front, non-blocking.
//
// The TAP ends with the file. While there is none, guests are told at once that the
// network cannot be reached; a TAP without its stack would swallow their packets.
func OpenUplink(i network.Instance) (*os.File, error) {
	file, err := openUplink(i)
	return file, explain(err)
}

func openUplink(i network.Instance) (*os.File, error) {
	a := &applier{Wanted: network.Wanted{Instance: i}}
	links, err := a.links()
	if err != nil {
		return nil, err
	}
	if err := a.free(links[i.Uplink()]); err != nil {
		return nil, err
	}
	file, err := openTap(i.Uplink())
	if errors.Is(err, unix.EBUSY) {
		return nil, &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("another process has the uplink %s: %w", i.Uplink(), err),
			Fix: "end the process that has it before another takes its place"}
	}
	if err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(i.Uplink())
	if err == nil {
		err = configureUplink(link, i)
	}
	if err == nil {
		err = up(links["lo"])
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// configureUplink makes the uplink the namespace's way out.
func configureUplink(link netlink.Link, i network.Instance) error {
	if err := configure(link, i, network.UplinkMTU); err != nil {
		return err
	}
	if err := ensureAddr(link, netip.PrefixFrom(network.UplinkAddr, network.UplinkSubnet.Bits())); err != nil {
		return err
	}
	if err := up(link); err != nil {
		return err
	}
	route := netlink.Route{LinkIndex: link.Attrs().Index, Gw: network.UplinkGateway.AsSlice()}
	if err := netlink.RouteReplace(&route); err != nil {
		return fmt.Errorf("set the default route by %s: %w", i.Uplink(), err)
	}
	return nil
}
