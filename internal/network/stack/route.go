package stack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// routes asks the host's kernel for routes instead of keeping a list of the host's
// addresses: the answer follows rules, tables and addresses as they are, and is what
// connect will do. Answers are kept until the kernel tells of any change, which it does
// before the change is done.
type routes struct {
	mu      sync.Mutex
	fd      int
	changes int // a socket that has something to read once anything has changed
	seq     uint32
	known   map[netip.Addr]Route
}

// mostRoutes is how many answers are kept.
const mostRoutes = 1024

// changing are the kernel's groups of messages that tell of changes.
const changing = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV4_RULE | 1<<(unix.RTNLGRP_NEXTHOP-1)

func openRoutes() (*routes, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a routing socket: %w", err)
	}
	changes, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err == nil {
		err = unix.Bind(changes, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: changing})
	}
	if err != nil {
		unix.Close(fd)
		unix.Close(changes)
		return nil, fmt.Errorf("watch routes: %w", err)
	}
	return &routes{fd: fd, changes: changes, known: map[netip.Addr]Route{}}, nil
}

func (r *routes) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	unix.Close(r.fd)
	unix.Close(r.changes)
	r.fd, r.changes = -1, -1
}

// to returns the route to a destination, or an errno: ENETUNREACH, EHOSTUNREACH, EACCES.
func (r *routes) to(dst netip.Addr) (Route, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed() {
		clear(r.known)
	}
	if route, ok := r.known[dst]; ok {
		return route, nil
	}
	route, err := r.ask(dst)
	if err == nil {
		if len(r.known) >= mostRoutes {
			clear(r.known)
		}
		r.known[dst] = route
	}
	return route, err
}

// changed reports whether anything has changed since it was last asked, or may have: also
// if the kernel could not keep what it had to tell.
func (r *routes) changed() (changed bool) {
	var b [1]byte // the rest of a message goes
	for {
		switch _, err := receive(r.changes, b[:], 0); err {
		case unix.EAGAIN:
			return changed
		case nil, unix.ENOBUFS:
			changed = true
		default:
			return true
		}
	}
}

// ask asks the kernel.
func (r *routes) ask(dst netip.Addr) (Route, error) {
	r.seq++
	if err := unix.Sendto(r.fd, question(dst, r.seq), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Route{}, err
	}
	// The kernel has answered before sendto returned.
	var answer [4096]byte
	for {
		n, err := receive(r.fd, answer[:], 0)
		if err != nil {
			return Route{}, err
		}
		if seq, route, err := parseRoute(answer[:n]); seq == r.seq {
			if err == nil && route.index > 0 {
				route.Link = linkName(r.fd, route.index)
			}
			return route.Route, err
		}
	}
}

func question(dst netip.Addr, seq uint32) []byte {
	const size = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 4
	var m [size]byte
	binary.NativeEndian.PutUint32(m[0:], size)
	binary.NativeEndian.PutUint16(m[4:], unix.RTM_GETROUTE)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(m[8:], seq)
	m[unix.SizeofNlMsghdr] = unix.AF_INET
	m[unix.SizeofNlMsghdr+1] = 32 // bits of the destination
	attr := m[unix.SizeofNlMsghdr+unix.SizeofRtMsg:]
	binary.NativeEndian.PutUint16(attr[0:], unix.SizeofRtAttr+4)
	binary.NativeEndian.PutUint16(attr[2:], unix.RTA_DST)
	copy(attr[4:], dst.AsSlice())
	return m[:]
}

type answer struct {
	Route
	index uint32
}

// parseRoute reads one answer of the kernel.
func parseRoute(m []byte) (seq uint32, r answer, err error) {
	if len(m) < unix.SizeofNlMsghdr+4 {
		return 0, r, unix.EBADMSG
	}
	seq = binary.NativeEndian.Uint32(m[8:])
	body := m[unix.SizeofNlMsghdr:]
	switch binary.NativeEndian.Uint16(m[4:]) {
	case unix.NLMSG_ERROR:
		return seq, r, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	case unix.RTM_NEWROUTE:
	default:
		return seq, r, unix.EBADMSG
	}
	if len(body) < unix.SizeofRtMsg {
		return seq, r, unix.EBADMSG
	}
	r.Local = body[7] != unix.RTN_UNICAST
	for attr := body[unix.SizeofRtMsg:]; len(attr) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(attr))
		if size < unix.SizeofRtAttr || size > len(attr) {
			break
		}
		if binary.NativeEndian.Uint16(attr[2:]) == unix.RTA_OIF && size >= unix.SizeofRtAttr+4 {
			r.index = binary.NativeEndian.Uint32(attr[unix.SizeofRtAttr:])
		}
		attr = attr[min(len(attr), (size+3)&^3):]
	}
	return seq, r, nil
}

// linkName returns a link's name; any socket serves to ask.
func linkName(fd int, index uint32) string {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return ""
	}
	ifr.SetUint32(index)
	if unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr) != nil {
		return ""
	}
	return ifr.Name()
}
