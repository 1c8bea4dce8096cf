package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
)

// portsFlag is a list of ports on the command line, one for each time that it is given.
type portsFlag struct{ to *[]banger.Publish }

func (f portsFlag) Set(text string) error {
	p, err := banger.ParsePublish(text)
	if err == nil {
		*f.to = append(*f.to, p)
	}
	return err
}

func (f portsFlag) String() string {
	if f.to == nil {
		return ""
	}
	return portsText(*f.to)
}

func (f portsFlag) Type() string { return "port" }

func portsText(ports []banger.Publish) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

func addPorts(flags *pflag.FlagSet, to *[]banger.Publish, usage string) {
	flags.Var(portsFlag{to}, "port", usage)
}

func newPorts(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ports [NAME...]",
		Short: "Show what listens in VMs, and where the host reaches it",
		Long: "Show which TCP ports programs in VMs listen on, and where the host reaches them: on the VM's own\n" +
			"address, which begins with 127, and on localhost if nobody else had the port first. Each is\n" +
			"reached from the moment a program listens, also one that listens on the guest's localhost only.\n" +
			"Where the host forbids ports below 1024, port 80 is at 8080, 443 at 8443, and so on.\n" +
			"`banger vm set --port` publishes ports that stay.",
		Example:           "  banger vm ports\n  banger vm ports calm-otter\n  banger vm ports --json calm-otter",
		Args:              args(0, anyNumber),
		ValidArgsFunction: a.vmNames,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.runPorts(cmd.Context(), names, &selection{runningVMs, len(names) == 0})
		},
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runPorts(ctx context.Context, names []string, selected *selection) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	named, err := selected.names(ctx, a, svc, names)
	if err != nil || len(named) == 0 {
		return err
	}
	rows := [][]string{{"NAME", "PORT", "PROGRAM", "ON THE HOST", "NOTE"}}
	failed := showResults(a, forSelected(ctx, selected, named, svc.VMPorts), func(_ string, p banger.VMPorts) error {
		if a.json {
			return a.printJSON(p)
		}
		rows = append(rows, portRows(p)...)
		return nil
	})
	if len(rows) == 1 {
		if failed == nil && !a.json {
			fmt.Fprintln(a.std.Err, "nothing listens")
		}
		return failed
	}
	return cmp.Or(table(a.std.Out, rows), failed)
}

// portRows returns a row for each port, and one for what is not known.
func portRows(p banger.VMPorts) (rows [][]string) {
	for _, f := range p.Ports {
		program := clean(f.Program)
		switch {
		case !f.Listening:
			program = "nothing listens"
		case program == "":
			program = "-"
		}
		note := cmp.Or(clean(f.Why), "-")
		if f.Fix != "" {
			note += "; fix: " + clean(f.Fix)
		}
		rows = append(rows, []string{p.Name, strconv.Itoa(int(f.Port)), program, addressesText(f.Addresses), note})
	}
	if p.Why != "" {
		rows = append(rows, []string{p.Name, "?", "-", "-", clean(p.Why)})
	}
	return rows
}

// addressesText writes localhost for its two addresses, and first: it is what people
// type.
func addressesText(list []netip.AddrPort) string {
	loopback4, loopback6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	var local, rest []string
	for _, at := range list {
		switch {
		case at.Addr() == loopback4:
			local = append(local, "localhost:"+strconv.Itoa(int(at.Port())))
		case at.Addr() == loopback6 && slices.Contains(list, netip.AddrPortFrom(loopback4, at.Port())):
		default:
			rest = append(rest, at.String())
		}
	}
	if len(local)+len(rest) == 0 {
		return "-"
	}
	return strings.Join(append(local, rest...), ", ")
}
