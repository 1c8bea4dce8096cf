package network

import (
	"errors"
	"fmt"
	"strings"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/wire"
)

// serviceFile is what one of the image's network services must know. The files are on
// /run: nothing of them outlives the boot, and a service that is not there does not
// mind. The reasons are in ADR 22.
type serviceFile struct {
	path string
	text string
}

// writeServices tells the network services that the image may have of the card.
func (g Guest) writeServices(n wire.Network, card string) error {
	files := serviceFiles(n, card)
	if g.hasResolvconf() {
		files = append(files, serviceFile{"/run/resolvconf/interface/" + card + ".banger", string(resolvText(n))})
	}
	var errs []error
	for _, f := range files {
		if err := inroot.Write(g.Root, f.path, []byte(f.text), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("tell the image's network services: %w", err))
		}
	}
	return errors.Join(errs...)
}

const ofBanger = "# From banger, which has set up this network card before the init started.\n"

func serviceFiles(n wire.Network, card string) []serviceFile {
	return []serviceFile{
		{"/run/systemd/network/00-banger.link", linkFile(n)},
		{"/run/systemd/network/00-banger.network", networkdFile(n)},
		{"/run/systemd/resolved.conf.d/banger.conf", resolvedFile(n)},
		{"/run/NetworkManager/conf.d/00-banger.conf", networkManagerFile(n)},
		// By this ifupdown knows that the card is up, and leaves it alone.
		{"/run/network/ifstate." + card, card + "\n"},
	}
}

// match names the card and no bridge or VLAN with the same address.
func match(n wire.Network) string {
	return "[Match]\nMACAddress=" + n.MAC + "\nDriver=virtio_net\n"
}

// linkFile keeps systemd's udev from renaming the card.
func linkFile(n wire.Network) string {
	return ofBanger + match(n) + "\n[Link]\nNamePolicy=keep\n"
}

// networkdFile wants what there is already. networkd counts a card that it does not
// manage as never online, and network-online.target would wait for it.
func networkdFile(n wire.Network) string {
	var b strings.Builder
	b.WriteString(ofBanger + match(n))
	if n.MTU != 0 {
		fmt.Fprintf(&b, "\n[Link]\nMTUBytes=%d\n", n.MTU)
	}
	fmt.Fprintf(&b, "\n[Network]\nAddress=%s\nGateway=%s\nDHCP=no\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\nKeepConfiguration=yes\n", n.Addr, n.Gateway)
	return b.String()
}

// resolvedFile names the resolver for all links: systemd-resolved may run without
// networkd.
func resolvedFile(n wire.Network) string {
	text := ofBanger + "[Resolve]\nDNS=" + n.Resolver.String() + "\n"
	if n.Domain != "" {
		text += "Domains=" + n.Domain + "\n"
	}
	return text
}

// networkManagerFile keeps NetworkManager off the card and off /etc/resolv.conf, which it
// would empty: it knows no nameserver of a card that is not its own. Its own file on
// /run, to which some images have a link, gets the resolver.
func networkManagerFile(n wire.Network) string {
	text := ofBanger + "[main]\nrc-manager=unmanaged\n\n[device-banger]\nmatch-device=mac:" + n.MAC + "\nmanaged=0\n\n[global-dns]\n"
	if n.Domain != "" {
		text += "searches=" + n.Domain + "\n"
	}
	return text + "\n[global-dns-domain-*]\nservers=" + n.Resolver.String() + "\n"
}
