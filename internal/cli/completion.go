package cli

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// bashWords follows cobra's script for bash, which without it needs the package
// bash-completion.
//
//go:embed completion.bash
var bashWords string

// zshRegister registers the function of cobra's script for zsh also before compinit.
//
//go:embed completion.zsh
var zshRegister string

// addCompletion adds cobra's command completion, whose scripts for bash and zsh work in
// shells as they are when nothing else is set up.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	cmd, _, err := root.Find([]string{"completion"})
	if err != nil {
		panic(err) // cobra has added it
	}
	cmd.Short = "Print the completion script for a shell"
	cmd.Long = "Print the completion script for a shell. For the script of bash or zsh, see its help."
	for _, shell := range cmd.Commands() {
		switch shell.Name() {
		case "bash":
			shell.Long = "Print the completion script for bash. Add this line to ~/.bashrc:\n\n  source <(banger completion bash)\n\nIt needs no other package."
			shell.RunE = func(cmd *cobra.Command, _ []string) error { return printBash(cmd) }
		case "zsh":
			shell.Long = "Print the completion script for zsh. Add this line to ~/.zshrc, before or after compinit:\n\n  source <(banger completion zsh)"
			shell.RunE = func(cmd *cobra.Command, _ []string) error { return printZsh(cmd) }
		}
	}
}

func describes(cmd *cobra.Command) bool {
	without, err := cmd.Flags().GetBool("no-descriptions")
	return err != nil || !without
}

func printBash(cmd *cobra.Command) error {
	var script bytes.Buffer
	if err := cmd.Root().GenBashCompletionV2(&script, describes(cmd)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s", script.String(), bashWords)
	return err
}

func printZsh(cmd *cobra.Command) error {
	var script bytes.Buffer
	generate := cmd.Root().GenZshCompletion
	if !describes(cmd) {
		generate = cmd.Root().GenZshCompletionNoDesc
	}
	if err := generate(&script); err != nil {
		return err
	}
	head, rest, found := strings.Cut(script.String(), "\ncompdef _banger banger\n")
	if !found {
		return fmt.Errorf("the script for zsh begins in another way: %q", script.String()[:min(80, script.Len())])
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), head, "\n", rest, "\n", zshRegister)
	return err
}
