package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Network is a guest's network card, and the way to everything else.
type Network struct {
	MAC      string       `json:"mac"`              // by which the agent finds the card: lower case, with colons
	Addr     netip.Prefix `json:"addr"`             // the guest's address and the size of its subnet; IPv4
	Gateway  netip.Addr   `json:"gateway"`          // in the same subnet
	Resolver netip.Addr   `json:"resolver"`         // serves DNS on port 53
	Domain   string       `json:"domain,omitempty"` // completes names without a dot
	MTU      int          `json:"mtu,omitempty"`    // 0: as the card has it
}

// The smallest MTU lets IPv6 work on the link; the largest is what a card can have.
const (
	MinMTU = 1280
	MaxMTU = 65535
)

// Check returns an error unless a guest can be given this network.
func (n Network) Check() error {
	mac, err := net.ParseMAC(n.MAC)
	if err != nil || len(mac) != 6 || mac.String() != n.MAC || mac[0]&1 != 0 {
		return fmt.Errorf("%q is not the MAC address of a network card", n.MAC)
	}
	if !usable(n.Addr.Addr()) || n.Addr.Bits() < 8 || n.Addr.Bits() > 30 {
		return fmt.Errorf("%s is not an IPv4 address with the size of its subnet", n.Addr)
	}
	if !usable(n.Gateway) || !n.Addr.Contains(n.Gateway) || n.Gateway == n.Addr.Addr() {
		return fmt.Errorf("the gateway %s is not another host of the subnet of %s", n.Gateway, n.Addr)
	}
	if !usable(n.Resolver) {
		return fmt.Errorf("%s is not the IPv4 address of a resolver", n.Resolver)
	}
	if n.MTU != 0 && (n.MTU < MinMTU || n.MTU > MaxMTU) {
		return fmt.Errorf("an MTU of %d is not between %d and %d", n.MTU, MinMTU, MaxMTU)
	}
	return checkDomain(n.Domain)
}

// usable reports whether a is the IPv4 address of a single host that is not this one.
func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.As4()[0] < 240
}

func checkDomain(domain string) error {
	const longest = 253 // RFC 1035
	if domain == "" {
		return nil
	}
	if len(domain) > longest {
		return fmt.Errorf("a domain of %d characters is too long", len(domain))
	}
	for label := range strings.SplitSeq(domain, ".") {
		if err := checkLabel(label); err != nil {
			return fmt.Errorf("domain %q: %w", domain, err)
		}
	}
	return nil
}

// checkLabel returns an error unless label is a part of a DNS name, in lower case.
func checkLabel(label string) error {
	const longest = 63 // RFC 1035
	if label == "" || len(label) > longest {
		return fmt.Errorf("a part of a name has 1 to %d characters, not %d", longest, len(label))
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return fmt.Errorf("%q begins or ends with a hyphen", label)
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%q has characters other than a-z, 0-9 and -", label)
		}
	}
	return nil
}

// ConfigureParams change a running guest. What is zero stays as it is.
type ConfigureParams struct {
	Name           string   `json:"name,omitempty"` // host name
	AuthorizedKeys []string `json:"authorized_keys,omitempty"`
	UnixNano       int64    `json:"unix_nano,omitempty"` // the host's clock
	Network        *Network `json:"network,omitempty"`   // the card stays the same
}

// maxKeys and maxKey bound the authorized keys of a request.
const (
	maxKeys = 64
	maxKey  = 16 << 10
)

// Check returns an error unless a guest can be configured like this.
func (p ConfigureParams) Check() error {
	if p.Name != "" {
		if err := checkLabel(p.Name); err != nil {
			return fmt.Errorf("host name: %w", err)
		}
	}
	if len(p.AuthorizedKeys) > maxKeys {
		return fmt.Errorf("%d authorized keys are more than %d", len(p.AuthorizedKeys), maxKeys)
	}
	for _, key := range p.AuthorizedKeys {
		if len(key) > maxKey || strings.ContainsAny(key, "\r\n\x00") {
			return errors.New("an authorized key is not one line")
		}
	}
	if p.Network != nil {
		return p.Network.Check()
	}
	return nil
}

// Apply returns the configuration with the changes.
func (p ConfigureParams) Apply(c Config) Config {
	if p.Name != "" {
		c.Name = p.Name
	}
	if p.AuthorizedKeys != nil {
		c.AuthorizedKeys = p.AuthorizedKeys
	}
	if p.UnixNano != 0 {
		c.UnixNano = p.UnixNano
	}
	if p.Network != nil {
		c.Network = p.Network
	}
	return c
}
