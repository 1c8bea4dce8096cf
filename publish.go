package banger

import (
	"net/netip"
	"strconv"
	"strings"
)

// Publish is a port of a guest that the host offers on purpose, written
// [ADDRESS:][HOSTPORT:]PORT: "80", "8080:80", "0.0.0.0:8080:80" or "[::]:8080:80".
type Publish struct {
	Addr netip.Addr // of the host; the zero Addr is localhost: 127.0.0.1 and ::1
	Host uint16     // the port on the host
	Port uint16     // the port in the guest
}

// ParsePublish reads what String writes, and what --port takes: a single port is the
// same on the host. Anything else is an Invalid error.
func ParsePublish(text string) (Publish, error) {
	rest, found := strings.CutSuffix(text, "/tcp")
	if !found {
		if _, protocol, other := strings.Cut(text, "/"); other {
			return Publish{}, Invalidf("leave out /"+protocol, "%q: only TCP ports are published", text)
		}
	}
	address, ports, err := cutAddress(text, rest)
	if err != nil {
		return Publish{}, err
	}
	var p Publish
	if p.Addr, err = parseHost(text, address); err != nil {
		return Publish{}, err
	}
	host, guest, two := strings.Cut(ports, ":")
	if !two {
		guest = host
	}
	if !two && address != "" {
		return Publish{}, Invalidf("write both ports, such as "+address+":8080:80", "%q: an address without a port of the host", text)
	}
	if p.Host, err = parsePort(text, host); err != nil {
		return Publish{}, err
	}
	p.Port, err = parsePort(text, guest)
	if err != nil {
		return Publish{}, err
	}
	return p, nil
}

// cutAddress cuts rest into an address, with its brackets, and the ports.
func cutAddress(text, rest string) (address, ports string, err error) {
	if strings.HasPrefix(rest, "[") {
		end := strings.Index(rest, "]:")
		if end < 0 {
			return "", "", Invalidf("write it such as [::]:8080:80", "%q: an address in brackets, then a colon and ports", text)
		}
		return rest[:end+1], rest[end+2:], nil
	}
	switch strings.Count(rest, ":") {
	case 0, 1:
		return "", rest, nil
	case 2:
		at := strings.Index(rest, ":")
		if at == 0 {
			return "", "", Invalidf("write it such as 0.0.0.0:8080:80 or 8080:80", "%q: the address is empty", text)
		}
		return rest[:at], rest[at+1:], nil
	}
	return "", "", Invalidf("write an IPv6 address in brackets, such as [::]:8080:80", "%q has too many colons", text)
}

// parseHost reads an address of the host. Only IPv6 addresses have brackets.
func parseHost(text, address string) (netip.Addr, error) {
	if address == "" || address == "localhost" {
		return netip.Addr{}, nil
	}
	inner, brackets := strings.CutPrefix(address, "[")
	addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
	if err != nil || addr.Is6() != brackets || addr.Is4In6() || addr.IsMulticast() {
		return netip.Addr{}, Invalidf("write an address of this host, such as 127.0.0.1, 0.0.0.0 for all IPv4 or [::] for all IPv6 addresses",
			"%q: %q is not an address to listen on", text, address)
	}
	return addr, nil
}

func parsePort(text, port string) (uint16, error) {
	const bits = 16
	n, err := strconv.ParseUint(port, 10, bits)
	switch {
	case strings.Contains(port, "-"):
		return 0, Invalidf("give --port once for each port", "%q: ranges are not supported", text)
	case err != nil && strings.Contains(port, "."):
		return 0, Invalidf("write both ports after the address, such as "+port+":8080:80", "%q: an address without a port of the host", text)
	case err != nil || n == 0 || port[0] == '0':
		return 0, Invalidf("give a port from 1 to 65535, or two such as 8080:80", "%q: %q is not a port", text, port)
	}
	return uint16(n), nil
}

// String returns p as ParsePublish reads it, always with both ports.
func (p Publish) String() string {
	text := strconv.Itoa(int(p.Host)) + ":" + strconv.Itoa(int(p.Port))
	switch {
	case p.Addr.Is6():
		return "[" + p.Addr.String() + "]:" + text
	case p.Addr.Is4():
		return p.Addr.String() + ":" + text
	}
	return text
}

// MarshalText writes p as String does: in JSON it is a string.
func (p Publish) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads p as ParsePublish does.
func (p *Publish) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePublish(string(text))
	return err
}
