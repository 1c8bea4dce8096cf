package cli

import (
	"math"

	"github.com/spf13/cobra"

	"banger"
)

// anyNumber is the maximum of args if there is no maximum.
const anyNumber = math.MaxInt

// args accepts from least to most arguments. Its error is the usage of the command.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return banger.Invalidf(cmd.CommandPath()+" --help", "usage: %s", cmd.UseLine())
		}
		return nil
	}
}
