package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
)

// switchFlag is one of a pair of flags, --x and --no-x, that set a *bool.
type switchFlag struct {
	to **bool
	on bool
}

func (f switchFlag) Set(text string) error {
	if text != "true" {
		return banger.Invalidf("use the flag without a value", "takes no value")
	}
	f.change()
	return nil
}

func (f switchFlag) change() { on := f.on; *f.to = &on }

func (f switchFlag) String() string { return "" }

// Type is what pflag prints for a flag without a value.
func (f switchFlag) Type() string { return "bool" }

// addSwitch adds --name and --no-name.
func addSwitch(cmd *cobra.Command, to **bool, name, on, off string) {
	flags := cmd.Flags()
	for _, f := range []*pflag.Flag{
		flags.VarPF(switchFlag{to, true}, name, "", on),
		flags.VarPF(switchFlag{to, false}, "no-"+name, "", off),
	} {
		f.NoOptDefVal = "true"
	}
}

// addNetwork adds the flags for a VM's network.
func addNetwork(cmd *cobra.Command, network *string, nat, isolated **bool) {
	cmd.Flags().StringVar(network, "network", "", "network of the VM: none, or auto for the best that this host allows")
	_ = cmd.RegisterFlagCompletionFunc("network", cobra.FixedCompletions([]string{"auto", "none"}, cobra.ShellCompDirectiveNoFileComp))
	addSwitch(cmd, nat, "nat", "let the VM reach the internet", "keep the VM from the internet; it still reaches other VMs")
	addSwitch(cmd, isolated, "isolated", "keep the VM and other VMs from each other", "let the VM and other VMs reach each other")
}

// networkDetails describes a VM's network in lines of a table.
func networkDetails(n banger.Network) [][]string {
	text := n.Mode
	var limits []string
	if n.Mode != "none" && !n.NAT {
		limits = append(limits, "no internet")
	}
	if n.Mode != "none" && n.Isolated {
		limits = append(limits, "isolated from other VMs")
	}
	if len(limits) > 0 {
		text += ", " + strings.Join(limits, ", ")
	}
	if n.Why != "" {
		text += ": " + clean(n.Why)
	}
	rows := [][]string{{"network", text}}
	if n.Fix != "" {
		rows = append(rows, []string{"fix", clean(n.Fix)})
	}
	if n.Address.IsValid() {
		rows = append(rows, []string{"address", n.Address.String()})
	}
	return rows
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
