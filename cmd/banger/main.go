// Command banger creates, runs and reaches persistent Linux VMs.
package main

import (
	"context"
	"os"

	"banger/internal/cli"
)

func main() { os.Exit(cli.Main(context.Background(), cli.OS(), os.Args[1:])) }
