// Go would keep the cpu.max of its control group open, and with it the root
// file system busy when the last stage unmounts it.
//
//go:debug containermaxprocs=0

// Command banger-agent is banger inside a VM.
package main

import (
	"os"

	"banger/internal/guest/agent"
)

func main() { os.Exit(agent.Main(os.Args)) }
