package cli

import (
	"math"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger"
)

// checkDurations returns an error about a flag with a time that is not above zero: most
// stand for no limit or a default, which nobody would guess.
func checkDurations(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		if d, failed := flags.GetDuration(f.Name); failed == nil && d <= 0 && err == nil {
			err = banger.Invalidf("leave out --"+f.Name+", or give a time such as 30s", "--%s must be more than 0s, not %v", f.Name, d)
		}
	})
	return err
}

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
