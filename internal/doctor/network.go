package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"banger"
	"banger/internal/hostcmd"
	"banger/internal/network"
)

// AskBangerd returns a function that has bangerd try which network VMs can have. bangerd
// itself has to try: a host may allow that to it and not to this program.
func AskBangerd(run hostcmd.Runner, stateDir string, program func() (string, error)) func(context.Context) (network.Offer, error) {
	return func(ctx context.Context) (offer network.Offer, err error) {
		path, err := program()
		if err != nil {
			return offer, err
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		out, err := run.Run(ctx, hostcmd.Cmd{Argv: []string{path, network.OfferRole, stateDir}})
		if err == nil {
			err = json.Unmarshal(out, &offer)
		}
		if err == nil && offer.Mode != network.Bridge && offer.Mode != network.Usernet && offer.Mode != network.None {
			err = fmt.Errorf("it knows a network %q", offer.Mode)
		}
		if err != nil {
			err = &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("%s does not say which network VMs can have: %w", path, err), Fix: "make install"}
		}
		return offer, err
	}
}

func askOnce(ctx context.Context, ask func(context.Context) (network.Offer, error)) func(context.Context) (network.Offer, error) {
	once := sync.OnceValues(func() (network.Offer, error) { return ask(ctx) })
	return func(context.Context) (network.Offer, error) { return once() }
}

// networkMode tells which network VMs get and why there is no better one. It is never
// Missing: VMs run without a network.
func networkMode(ctx context.Context, h Host) Check {
	c := Check{Name: "network", State: OK}
	offer, err := h.Offer(ctx)
	switch {
	case err != nil:
		c.State, c.Detail, c.Fix = Warn, "unknown: "+err.Error(), banger.FixOf(err)
	case offer.Mode == network.None:
		c.State, c.Detail, c.Fix = Warn, "VMs have no network: "+offer.Why, offer.Fix
		if c.Fix == "banger doctor" {
			c.Fix = "" // the user runs it now
		}
		if c.Fix != "" && h.daemonRuns(ctx) {
			c.Fix += ", then: banger daemon stop" // it looks only at its start
		}
	case offer.Conflict != nil:
		c.State, c.Detail, c.Fix = Warn, string(offer.Mode)+"; "+offer.Conflict.Text, offer.Conflict.Fix
	case h.Config.Network == string(network.None):
		c.Detail = "none for new VMs, as config.toml says; " + string(offer.Mode) + " is possible"
	case offer.Mode == network.Usernet:
		c.Detail = "usernet, without root; only root's daemon can use bridge, which is faster"
	default:
		c.Detail = string(offer.Mode)
	}
	return c
}

func (h Host) daemonRuns(ctx context.Context) bool {
	if h.Daemon == nil {
		return false
	}
	_, err := h.Daemon(ctx)
	return err == nil
}

// names tells whether programs of this host find VMs by their names. ssh needs none of
// it.
func names(ctx context.Context, h Host) Check {
	c := Check{Name: "names", State: OK}
	offer, err := h.Offer(ctx)
	if err != nil || offer.Mode == network.None {
		c.Detail = "none without a network"
		return c
	}
	stub := strings.Contains(h.read("etc/resolv.conf"), "nameserver 127.0.0.53")
	if offer.Mode == network.Bridge && (stub || h.asksResolved()) {
		c.Detail = "NAME.vm, through systemd-resolved, while a VM runs" // the daemon tells it
		return c
	}
	const sshDoes = "; ssh does: banger vm ssh-config --install"
	with, global := h.resolver(offer.Resolver, stub), h.globalServers()
	switch {
	case with.file == "":
		c.State, c.Detail = Warn, "this host asks another machine for all names, and so does not find NAME.vm"+sshDoes
		if !h.asksResolved() {
			c.Fix = install("systemd-resolved")
		}
	case stub && global != "": // it would ask them, and not us
		c.State, c.Detail = Warn, "systemd-resolved asks the servers in "+global+" for all names, and so does not find NAME.vm"+sshDoes
		c.Fix = "give these servers to your network's link instead"
	case strings.Contains("\n"+h.read(with.file), "\n"+with.line+"\n"):
		c.Detail = "NAME.vm, through " + with.name
	default:
		c.State, c.Detail, c.Fix = Warn, "programs on this host do not find NAME.vm"+sshDoes, with.fix
	}
	return c
}

// hostResolver is a resolver of the host's, and how it learns where names of VMs are.
type hostResolver struct{ name, file, line, fix string }

// resolver returns the resolver that this host's programs ask, or none if that is on
// another machine. With stub, that is systemd-resolved. Where /etc/resolv.conf names other
// servers, it takes them from there, and would not any more if it got one of ours.
func (h Host) resolver(at netip.AddrPort, stub bool) hostResolver {
	if stub {
		const file = "/etc/systemd/resolved.conf.d/banger.conf"
		return hostResolver{"systemd-resolved", file, "DNS=" + at.String(), fmt.Sprintf(
			`sudo mkdir -p %s && printf '[Resolve]\nDNS=%s\nDomains=~vm\n' | sudo tee %s && sudo systemctl restart systemd-resolved`, filepath.Dir(file), at, file)}
	}
	line := fmt.Sprintf("server=/vm/%v#%d", at.Addr(), at.Port())
	add := func(name, file, reload string) hostResolver {
		return hostResolver{name, file, line, fmt.Sprintf("echo %s | sudo tee %s && %s", line, file, reload)}
	}
	if h.managedDnsmasq() {
		return add("NetworkManager's dnsmasq", "/etc/NetworkManager/dnsmasq.d/banger.conf", "sudo nmcli general reload dns-full")
	}
	if _, err := os.Stat(filepath.Join(h.Root, "etc/dnsmasq.conf")); err == nil {
		return add("dnsmasq", "/etc/dnsmasq.d/banger.conf", "sudo systemctl restart dnsmasq")
	}
	return hostResolver{}
}

// globalServers returns a file that gives systemd-resolved servers for all links, or "".
func (h Host) globalServers() string {
	files, _ := filepath.Glob(filepath.Join(h.Root, "etc/systemd/resolved.conf.d/*.conf"))
	for _, path := range append(files, filepath.Join(h.Root, "etc/systemd/resolved.conf")) {
		text, err := os.ReadFile(path)
		if err != nil || filepath.Base(path) == "banger.conf" {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if servers, ok := strings.CutPrefix(line, "DNS="); ok && strings.TrimSpace(servers) != "" {
				return path
			}
		}
	}
	return ""
}

// asksResolved reports whether the C library asks systemd-resolved for names.
func (h Host) asksResolved() bool {
	for line := range strings.Lines(h.read("etc/nsswitch.conf")) {
		fields := strings.Fields(line)
		for _, source := range fields[min(1, len(fields)):] {
			if fields[0] == "hosts:" && source == "resolve" {
				return true
			}
		}
	}
	return false
}

// managedDnsmasq reports whether NetworkManager runs dnsmasq for the host.
func (h Host) managedDnsmasq() bool {
	const dir = "etc/NetworkManager"
	more, _ := filepath.Glob(filepath.Join(h.Root, dir, "conf.d/*.conf"))
	text := h.read(filepath.Join(dir, "NetworkManager.conf"))
	for _, path := range more {
		part, err := os.ReadFile(path)
		if err == nil {
			text += "\n" + string(part)
		}
	}
	return strings.Contains("\n"+text, "\ndns=dnsmasq")
}
