package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"banger/internal/version"
)

func newVersion(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of banger",
		Example: "  banger version\n  banger version --json",
		Args:    args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			platform := runtime.GOOS + "/" + runtime.GOARCH
			if a.json {
				return a.printJSON(map[string]string{"version": version.Version, "go": runtime.Version(), "platform": platform})
			}
			_, err := fmt.Fprintf(a.std.Out, "banger %s (%s, %s)\n", version.Version, runtime.Version(), platform)
			return err
		},
	}
	a.addJSON(cmd)
	return cmd
}
