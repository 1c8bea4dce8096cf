package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func newOpen(a *app) *cobra.Command {
	var printOnly bool
	cmd := &cobra.Command{
		Use:   "open [flags] NAME [PORT]",
		Short: "Open a port of a VM in your browser",
		Long: "Open a port of a running VM in your browser, at the address where this host forwards it. Without PORT,\n" +
			"open the one that the VM listens on. It runs $BROWSER, or xdg-open; without a desktop it prints the address.",
		Example:           "  banger vm open calm-otter 3000\n  banger vm open --print calm-otter 3000",
		Args:              args(1, 2),
		ValidArgsFunction: a.firstVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runOpen(cmd.Context(), args, printOnly)
		},
	}
	cmd.Flags().BoolVarP(&printOnly, "print", "p", false, "print the address instead")
	return cmd
}

func (a *app) runOpen(ctx context.Context, args []string, printOnly bool) error {
	port := 0
	if len(args) == 2 {
		n, err := strconv.ParseUint(args[1], 10, 16)
		if err != nil || n == 0 {
			return banger.Invalidf("give a number from 1 to 65535", "%q is not a port", args[1])
		}
		port = int(n)
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	vm, err := svc.VMPorts(ctx, args[0])
	if err != nil {
		return err
	}
	if _, ok := vm.State.On(banger.Reach); !ok {
		return banger.Refuse(banger.Reach, vm.Name, vm.State)
	}
	address, err := forwardedURL(vm, port)
	if err != nil {
		return err
	}
	browser := a.browser()
	if printOnly || len(browser) == 0 {
		_, err := fmt.Fprintln(a.std.Out, address)
		return err
	}
	cmd := exec.CommandContext(ctx, browser[0], withAddress(browser[1:], address)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.std.In, a.std.Out, a.std.Err // it may be one for the terminal
	if err := cmd.Run(); err != nil {
		return &banger.Error{Kind: banger.Unready, What: "open " + address, Why: fmt.Errorf("%s: %w", browser[0], err),
			Fix: strings.Join(append([]string{"banger vm open --print"}, args...), " ")}
	}
	return nil
}

// forwardedURL returns where this host reaches a port of a VM. Port 0 means the only
// port that something listens on.
func forwardedURL(vm banger.VMPorts, port int) (string, error) {
	var open []banger.Forward
	var ports []string
	for _, f := range vm.Ports {
		// The guest may not be able to tell that something listens.
		listens := f.Listening || port != 0 && vm.Why != ""
		if listens && len(f.Addresses) > 0 && (port == 0 || int(f.Port) == port) {
			open, ports = append(open, f), append(ports, strconv.Itoa(int(f.Port)))
		}
	}
	switch len(open) {
	case 0:
		return "", nothingToOpen(vm, port)
	case 1:
		return urlOf(open[0]), nil
	}
	return "", banger.Invalidf(fmt.Sprintf("banger vm open %s %s", vm.Name, ports[0]),
		"VM %q listens on several ports: %s", vm.Name, strings.Join(ports, ", "))
}

// nothingToOpen says why this host does not reach a port of a VM, or any.
func nothingToOpen(vm banger.VMPorts, port int) error {
	for _, f := range vm.Ports {
		if port != 0 && int(f.Port) == port && f.Why != "" {
			return &banger.Error{Kind: banger.Conflict, What: fmt.Sprintf("open port %d of VM %q", port, vm.Name), Why: errors.New(f.Why), Fix: f.Fix}
		}
	}
	text := fmt.Sprintf("nothing in VM %q listens on a port", vm.Name)
	if port != 0 {
		text = fmt.Sprintf("nothing in VM %q listens on port %d", vm.Name, port)
	}
	if vm.Why != "" {
		text += ", or it is not known: " + vm.Why
	}
	return &banger.Error{Kind: banger.NotFound, Why: errors.New(text), Fix: "start the server in the VM, then: banger vm ports " + vm.Name}
}

// urlOf returns the address for a browser. It prefers localhost, which browsers trust
// as they trust https.
func urlOf(f banger.Forward) string {
	address := url.URL{Scheme: "http", Host: f.Addresses[0].String(), Path: "/"}
	for _, at := range f.Addresses {
		if at.Addr() == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || at.Addr().IsUnspecified() {
			address.Host = net.JoinHostPort("localhost", strconv.Itoa(int(at.Port())))
		}
	}
	if f.Port == 443 || f.Port == 8443 {
		address.Scheme = "https"
	}
	return address.String()
}

// browser returns the command that opens an address: the first of $BROWSER that is
// installed, or xdg-open on a desktop. It is empty if there is none.
func (a *app) browser() []string {
	for _, entry := range strings.Split(a.std.Getenv("BROWSER"), ":") {
		if words := strings.Fields(entry); len(words) > 0 && installed(words[0]) {
			return words
		}
	}
	if (a.std.Getenv("DISPLAY") != "" || a.std.Getenv("WAYLAND_DISPLAY") != "") && installed("xdg-open") {
		return []string{"xdg-open"}
	}
	return nil
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil || errors.Is(err, exec.ErrDot)
}

// withAddress puts an address in place of %s in arguments, or behind them.
func withAddress(args []string, address string) []string {
	list, placed := slices.Clone(args), false
	for i, arg := range list {
		if strings.Contains(arg, "%s") {
			list[i], placed = strings.ReplaceAll(arg, "%s", address), true
		}
	}
	if !placed {
		list = append(list, address)
	}
	return list
}
