// Command bangerd is the daemon that owns the VMs. banger starts it by itself.
package main

import (
	"context"
	"os"

	"banger/internal/daemon"
)

func main() { os.Exit(daemon.Main(context.Background(), daemon.Std(), os.Args[1:])) }
