package cli

import (
	"math"

	"github.com/spf13/cobra"

	"banger"
)

// anyNumber as a maximum means that there is none.
const anyNumber = math.MaxInt

// args accepts from least to most arguments, and answers others with the usage.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return banger.Invalidf(cmd.CommandPath()+" --help", "usage: %s", cmd.UseLine())
		}
		return nil
	}
}
