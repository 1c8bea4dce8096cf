package sshd

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"banger/internal/guest/transfer"
	"banger/internal/linux"
)

// RunTransfer copies files between the host on stdin and stdout and its working
// directory, which is the home of the user that runs it. When the client gives up, it
// removes what is not complete.
func RunTransfer() int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGINT)
	if err := unix.SetNonblock(0, true); err != nil { // so that a read can be interrupted
		return 1
	}
	in := os.NewFile(0, "stdin")
	go func() {
		<-signals
		linux.InterruptRead(in)
	}()
	home, err := os.Getwd()
	if err != nil {
		home = "/"
	}
	if err := transfer.Serve(in, os.Stdout, home); err != nil {
		return 1
	}
	return 0
}
