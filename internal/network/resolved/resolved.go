// Package resolved owns what banger tells the host's systemd-resolved: which names it
// shall ask for on a link, and where. systemd-resolved forgets that with the link.
//
// It does not answer for names (package dns), and knows no other resolver of hosts.
package resolved

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// Resolved is a host's systemd-resolved.
type Resolved struct {
	Bus string // the address of the host's D-Bus
}

// Host returns this host's.
func Host() Resolved { return Resolved{Bus: "unix:path=/run/dbus/system_bus_socket"} }

const (
	service = "org.freedesktop.resolve1"
	object  = "/org/freedesktop/resolve1"
	manager = "org.freedesktop.resolve1.Manager."
)

// patience bounds a call: nobody's start waits longer for it.
const patience = 2 * time.Second

// Ask has programs of the host ask a server behind a link for the names in a domain, and
// for no others. The link is not the loopback's, which systemd-resolved refuses, and may
// still be down. Without systemd-resolved, or in another network namespace than its, Ask
// does nothing and returns nil.
func (r Resolved) Ask(ctx context.Context, link int, server netip.Addr, domain string) error {
	type address struct {
		Family int32
		Bytes  []byte
	}
	type route struct {
		Domain string
		Only   bool // it is no search domain
	}
	// The server is last: until then no other name may go there.
	return r.call(ctx, []call{
		{"SetLinkDefaultRoute", []any{int32(link), false}},
		{"SetLinkDomains", []any{int32(link), []route{{domain, true}}}},
		{"SetLinkDNS", []any{int32(link), []address{{syscall.AF_INET, server.AsSlice()}}}},
	})
}

// Forget undoes Ask.
func (r Resolved) Forget(ctx context.Context, link int) error {
	return r.call(ctx, []call{{"RevertLink", []any{int32(link)}}})
}

type call struct {
	method string
	args   []any
}

// call makes calls in order, until one fails.
func (r Resolved) call(ctx context.Context, calls []call) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	bus, err := dbus.Dial(r.Bus, dbus.WithContext(ctx))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil // a host without a bus has no systemd-resolved
	}
	if err != nil {
		return fmt.Errorf("reach D-Bus: %w", err)
	}
	defer bus.Close()
	if err := errors.Join(bus.Auth(nil), bus.Hello()); err != nil {
		return fmt.Errorf("reach D-Bus: %w", err)
	}
	if here, err := isHere(ctx, bus); err != nil || !here {
		return err
	}
	for _, c := range calls {
		// It is not started for this: what does not run serves nobody.
		done := bus.Object(service, object).CallWithContext(ctx, manager+c.method, dbus.FlagNoAutoStart, c.args...)
		if done.Err != nil {
			return fmt.Errorf("tell systemd-resolved (%s): %w", c.method, done.Err)
		}
	}
	return nil
}

// isHere reports whether systemd-resolved runs and is in this process's network
// namespace: in another one, the same number is another link.
func isHere(ctx context.Context, bus *dbus.Conn) (bool, error) {
	var pid uint32
	err := bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, service).Store(&pid)
	if failed := (dbus.Error{}); errors.As(err, &failed) && failed.Name == "org.freedesktop.DBus.Error.NameHasNoOwner" {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find systemd-resolved: %w", err)
	}
	its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return false, nil // it has ended, or this is a container with the host's bus
	}
	own, err2 := os.Stat("/proc/self/ns/net")
	if err := errors.Join(err, err2); err != nil {
		return false, fmt.Errorf("find systemd-resolved's network: %w", err)
	}
	return os.SameFile(its, own), nil
}
