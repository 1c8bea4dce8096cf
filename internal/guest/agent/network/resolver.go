package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"path"
	"strings"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

const resolvConf = "/etc/resolv.conf"

// writeResolver makes the C library ask the network's resolver. Three kinds of
// /etc/resolv.conf are found in images:
//
//   - a link to /run belongs to a service that writes the file when it starts. The link
//     stays. Our text is there until then, and for good if no such service runs; the
//     service itself is told in its own files (writeServices).
//   - a file of the VM's, with a nameserver in it, is a person's decision and stays,
//     unless it is exactly what an earlier call wrote.
//   - anything else is of no use here: no file, no nameserver in it, or the file of the
//     host where the image was built. It is replaced.
func (g Guest) writeResolver(want wire.Network) error {
	err := g.replaceResolver(want)
	if err != nil {
		return fmt.Errorf("write %s: %w", resolvConf, err)
	}
	return nil
}

func (g Guest) replaceResolver(want wire.Network) error {
	at := resolvConf
	if target, isLink := inroot.FollowLink(g.Root, resolvConf); isLink && volatile(target) {
		at = target
	}
	old, err := inroot.Read(g.Root, at)
	if err != nil {
		return err
	}
	text := resolvText(want)
	if bytes.Equal(old, text) {
		return nil
	}
	if at != resolvConf {
		// Only the first text on /run is ours to write: a service may have replaced it.
		if len(old) > 0 && !isOurs(old) {
			return nil
		}
		return inroot.Write(g.Root, at, text, 0o644)
	}
	if names(old) && !isOurs(old) && g.Changed(resolvConf) {
		log.Infof("leave %s alone: it was changed in this VM", resolvConf)
		return nil
	}
	return inroot.Write(g.Root, resolvConf, text, 0o644)
}

// volatile reports whether a path is on /run, where the boot begins with nothing.
func volatile(target string) bool {
	return strings.HasPrefix(target, "/run/") || strings.HasPrefix(target, "/var/run/")
}

// names reports whether a resolv.conf names a nameserver.
func names(text []byte) bool {
	for line := range bytes.Lines(text) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "nameserver" {
			return true
		}
	}
	return false
}

// resolvText is the resolv.conf for a network.
func resolvText(n wire.Network) []byte {
	text := fmt.Sprintf("# From banger, for %s %s. If you change this file, it stays as you leave it.\nnameserver %s\n", n.Resolver, n.Domain, n.Resolver)
	if n.Domain != "" {
		text += "search " + n.Domain + "\n"
	}
	return []byte(text)
}

// isOurs reports whether a resolv.conf is exactly what resolvText returns for some
// network. The first line repeats the values, so that changing one of them shows.
func isOurs(text []byte) bool {
	first, _, _ := strings.Cut(string(text), "\n")
	values, ok := strings.CutPrefix(first, "# From banger, for ")
	values, _, dot := strings.Cut(values, ". ")
	resolver, domain, space := strings.Cut(values, " ")
	if !ok || !dot || !space {
		return false
	}
	addr, err := netip.ParseAddr(resolver)
	return err == nil && bytes.Equal(text, resolvText(wire.Network{Resolver: addr, Domain: domain}))
}

// hasResolvconf reports whether the image's resolv.conf is made by resolvconf.
func (g Guest) hasResolvconf() bool {
	target, isLink := inroot.FollowLink(g.Root, resolvConf)
	return isLink && path.Base(path.Dir(target)) == "resolvconf"
}
