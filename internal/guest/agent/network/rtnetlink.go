package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kernel is a socket on which the kernel changes links, addresses and routes (man 7
// rtnetlink).
type kernel struct{ fd int }

func dial() (kernel, error) {
	fd, err := listen(0)
	return kernel{fd}, err
}

func (k kernel) close() { unix.Close(k.fd) }

// listen opens a socket that also hears the news of some groups.
func listen(groups uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("open rtnetlink: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open rtnetlink: %w", err)
	}
	return fd, nil
}

// waitForNews returns when there is news, or the time is over.
func waitForNews(fd int, within time.Duration) error {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(within.Milliseconds())+1)
	if err != nil && err != unix.EINTR {
		return err
	}
	buf := make([]byte, 64<<10)
	for err = nil; err == nil; {
		_, _, err = unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	}
	if err == unix.EAGAIN || err == unix.ENOBUFS || err == unix.EINTR {
		return nil
	}
	return err
}

var native = binary.NativeEndian

// ask sends one request and returns the kernel's answer: nil, or an errno.
func (k kernel) ask(kind uint16, flags int, body []byte, attributes ...[]byte) error {
	for _, a := range attributes {
		body = append(body, a...)
	}
	message := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	message = native.AppendUint16(message, kind)
	message = native.AppendUint16(message, uint16(unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags))
	message = append(message, make([]byte, 8)...) // sequence number and sender: one request at a time
	message = append(message, body...)
	if err := unix.Sendto(k.fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(k.fd, answer, 0)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseNetlinkMessage(answer[:n])
	if err != nil {
		return err
	}
	for _, m := range messages {
		if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
			if code := int32(native.Uint32(m.Data)); code != 0 {
				return unix.Errno(-code)
			}
			return nil
		}
	}
	return errors.New("the kernel did not answer")
}

// attribute returns an attribute of a request.
func attribute(kind uint16, value []byte) []byte {
	a := native.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	a = native.AppendUint16(a, kind)
	a = append(a, value...)
	return append(a, make([]byte, -len(a)&(unix.RTA_ALIGNTO-1))...)
}

// number is the value of an attribute.
func number(n int) []byte { return native.AppendUint32(nil, uint32(n)) }

// linkBody is a struct ifinfomsg that sets the flags.
func linkBody(index int, flags uint32) []byte {
	body := make([]byte, 4, unix.SizeofIfInfomsg) // any family and type
	for _, field := range []uint32{uint32(index), flags, flags} {
		body = native.AppendUint32(body, field)
	}
	return body
}

func (k kernel) raise(index int) error {
	return k.ask(unix.RTM_NEWLINK, 0, linkBody(index, unix.IFF_UP))
}

func (k kernel) setMTU(index, mtu int) error {
	return k.ask(unix.RTM_NEWLINK, 0, linkBody(index, 0), attribute(unix.IFLA_MTU, number(mtu)))
}

// addressBody is a struct ifaddrmsg.
func addressBody(index int, p netip.Prefix) []byte {
	return native.AppendUint32([]byte{unix.AF_INET, byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}, uint32(index))
}

func (k kernel) addAddress(index int, p netip.Prefix) error {
	a := p.Addr().As4()
	broadcast := native.Uint32(a[:]) | ^native.Uint32(mask(p.Bits()))
	return k.ask(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, addressBody(index, p),
		attribute(unix.IFA_LOCAL, a[:]), attribute(unix.IFA_ADDRESS, a[:]), attribute(unix.IFA_BROADCAST, native.AppendUint32(nil, broadcast)))
}

func mask(bits int) []byte { return binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-bits)) }

func (k kernel) deleteAddress(index int, p netip.Prefix) error {
	a := p.Addr().As4()
	return k.ask(unix.RTM_DELADDR, 0, addressBody(index, p), attribute(unix.IFA_LOCAL, a[:]))
}

// route is a default route.
type route struct {
	gateway netip.Addr
	metric  int
}

// routeBody is a struct rtmsg.
func routeBody() []byte {
	return []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
}

func (k kernel) addRoute(index int, r route) error {
	gateway := r.gateway.As4()
	return k.ask(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, routeBody(),
		attribute(unix.RTA_OIF, number(index)), attribute(unix.RTA_GATEWAY, gateway[:]))
}

func (k kernel) deleteRoute(index int, r route) error {
	body := routeBody()
	body[5] = unix.RTPROT_UNSPEC // whoever made it
	gateway := r.gateway.As4()
	return k.ask(unix.RTM_DELROUTE, 0, body,
		attribute(unix.RTA_OIF, number(index)), attribute(unix.RTA_GATEWAY, gateway[:]), attribute(unix.RTA_PRIORITY, number(r.metric)))
}

// defaultRoutes returns the default routes of IPv4 over a link.
func defaultRoutes(index int) ([]route, error) {
	all, err := syscall.NetlinkRIB(unix.RTM_GETROUTE, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(all)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var found []route
	for _, m := range messages {
		if r, over, ok := defaultRoute(m); ok && over == index {
			found = append(found, r)
		}
	}
	return found, nil
}

// defaultRoute returns the default route of a message, and the link that it is over.
func defaultRoute(m syscall.NetlinkMessage) (r route, over int, ok bool) {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
		return r, 0, false
	}
	bits, table, kind := m.Data[1], m.Data[4], m.Data[7]
	if bits != 0 || table != unix.RT_TABLE_MAIN || kind != unix.RTN_UNICAST {
		return r, 0, false
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return r, 0, false
	}
	for _, a := range attributes {
		if len(a.Value) != 4 {
			continue
		}
		switch a.Attr.Type {
		case unix.RTA_GATEWAY:
			r.gateway = netip.AddrFrom4([4]byte(a.Value))
		case unix.RTA_OIF:
			over = int(native.Uint32(a.Value))
		case unix.RTA_PRIORITY:
			r.metric = int(native.Uint32(a.Value))
		}
	}
	return r, over, r.gateway.IsValid()
}
