package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// card is the guest's network card.
type card struct {
	index int
	name  string
	mtu   int
	up    bool
}

// findCard returns the link with this MAC. A bridge or a VLAN on the card has the same
// one, but was made later.
func findCard(mac string) (card, bool, error) {
	links, err := net.Interfaces()
	if err != nil {
		return card{}, false, fmt.Errorf("list network cards: %w", err)
	}
	slices.SortFunc(links, func(a, b net.Interface) int { return a.Index - b.Index })
	for _, l := range links {
		if l.HardwareAddr.String() == mac {
			return card{index: l.Index, name: l.Name, mtu: l.MTU, up: l.Flags&net.FlagUp != 0}, true, nil
		}
	}
	return card{}, false, nil
}

// waitForCard returns the card with this MAC, once the kernel announces it.
func waitForCard(mac string, within time.Duration) (card, error) {
	news, err := listen(unix.RTMGRP_LINK)
	if err != nil {
		return card{}, err
	}
	defer unix.Close(news)
	end := time.Now().Add(within)
	for {
		c, ok, err := findCard(mac)
		if ok || err != nil {
			return c, err
		}
		left := time.Until(end)
		if left <= 0 {
			return card{}, fmt.Errorf("the VM has no network card with the address %s", mac)
		}
		if err := waitForNews(news, left); err != nil {
			return card{}, fmt.Errorf("wait for the network card: %w", err)
		}
	}
}

// set makes the card equal to want and removes what is left of the stale networks.
func (c card) set(want wire.Network, stale []wire.Network) error {
	k, err := dial()
	if err != nil {
		return err
	}
	defer k.close()
	return errors.Join(
		c.refuseRouters(), // before it is up
		c.raise(k, want.MTU),
		c.setAddress(k, want.Addr, stale),
		c.setRoute(k, want.Gateway, stale),
	)
}

// refuseRouters keeps a guest that announces itself as a router of IPv6 from becoming
// this guest's router. There is no IPv6 but link-local.
func (c card) refuseRouters() error {
	for _, name := range []string{"accept_ra", "autoconf"} {
		err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", c.name, name), []byte("0"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return fmt.Errorf("refuse routers of IPv6: %w", err)
		}
	}
	return nil
}

func (c card) raise(k kernel, mtu int) error {
	if mtu != 0 && mtu != c.mtu {
		if err := k.setMTU(c.index, mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", c.name, mtu, err)
		}
	}
	if c.up {
		return nil
	}
	if err := k.raise(c.index); err != nil {
		return fmt.Errorf("raise %s: %w", c.name, err)
	}
	return nil
}

// setAddress removes stale addresses first: as long as one is there, the kernel makes
// another one of the same subnet depend on it.
func (c card) setAddress(k kernel, want netip.Prefix, stale []wire.Network) error {
	has, err := c.addresses()
	if err != nil {
		return err
	}
	for _, n := range stale {
		if n.Addr == want || !slices.Contains(has, n.Addr) {
			continue
		}
		if err := k.deleteAddress(c.index, n.Addr); err != nil && err != unix.EADDRNOTAVAIL {
			return fmt.Errorf("remove %s from %s: %w", n.Addr, c.name, err)
		}
	}
	if has, err = c.addresses(); err != nil || slices.Contains(has, want) {
		return err
	}
	if err := k.addAddress(c.index, want); err != nil && err != unix.EEXIST {
		return fmt.Errorf("give %s to %s: %w", want, c.name, err)
	}
	return nil
}

func (c card) addresses() ([]netip.Prefix, error) {
	link := net.Interface{Index: c.index, Name: c.name}
	list, err := link.Addrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", c.name, err)
	}
	var has []netip.Prefix
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			has = append(has, p)
		}
	}
	return has, nil
}

// setRoute makes the gateway the way to everything else. A default route that a person
// made, over another link or another gateway, stays and wins.
func (c card) setRoute(k kernel, gateway netip.Addr, stale []wire.Network) error {
	has, err := defaultRoutes(c.index)
	if err != nil {
		return err
	}
	for _, r := range has {
		left := func(n wire.Network) bool { return n.Gateway == r.gateway && r.gateway != gateway }
		if !slices.ContainsFunc(stale, left) {
			continue
		}
		if err := k.deleteRoute(c.index, r); err != nil && err != unix.ESRCH {
			return fmt.Errorf("remove the route over %s: %w", r.gateway, err)
		}
	}
	if slices.ContainsFunc(has, func(r route) bool { return r.gateway == gateway }) {
		return nil
	}
	if err := k.addRoute(c.index, route{gateway: gateway}); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make %s the gateway: %w", gateway, err)
	}
	return nil
}
