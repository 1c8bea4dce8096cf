package wire

import "net/netip"

// MaxListeners bounds how many listening sockets a guest reports.
const MaxListeners = 256

// Ports are the TCP sockets that listen in the guest's own network namespace: those in
// containers are not among them, but the ports that containers publish are. UDP is not
// covered.
type Ports struct {
	Listeners []Listener `json:"listeners,omitempty"` // by port, then by address; each pair once
	More      bool       `json:"more,omitempty"`      // there are more than MaxListeners
	Unwatched string     `json:"unwatched,omitempty"` // why the guest cannot tell of changes: only MethodPorts looks
}

// Listener is a TCP socket that accepts connections.
type Listener struct {
	Port    uint16     `json:"port"`
	Addr    netip.Addr `json:"addr"`              // 0.0.0.0 or :: is every address
	Dual    bool       `json:"dual,omitempty"`    // with ::, it accepts IPv4 as well
	Program string     `json:"program,omitempty"` // that began to listen, if known
}

// MaxProgram is the longest name of a program in bytes, as the kernel has it.
const MaxProgram = 15

// Loopback reports whether only the guest itself can connect.
func (l Listener) Loopback() bool { return l.Addr.IsLoopback() }

// Dial returns where a program in the guest connects to reach the listener.
func (l Listener) Dial() netip.AddrPort {
	addr := l.Addr
	switch {
	case addr == netip.IPv6Unspecified() && !l.Dual:
		addr = netip.IPv6Loopback()
	case addr.IsUnspecified():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(addr, l.Port)
}
