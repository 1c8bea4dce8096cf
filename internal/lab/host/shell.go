package host

import (
	"context"
	"errors"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
)

// Terminal runs a login shell in the host on a terminal.
func (h *Host) Terminal(ctx context.Context, in, out *os.File) error {
	session, err := h.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	session.Stdin, session.Stdout, session.Stderr = in, out, out
	if fd := int(in.Fd()); term.IsTerminal(fd) {
		width, height, err := term.GetSize(fd)
		if err != nil {
			return err
		}
		if err := session.RequestPty(os.Getenv("TERM"), height, width, ssh.TerminalModes{}); err != nil {
			return err
		}
		was, err := term.MakeRaw(fd)
		if err != nil {
			return err
		}
		defer term.Restore(fd, was)
	}
	if err := session.Start("cd " + Root + " && exec bash -l"); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- session.Wait() }()
	select {
	case err := <-done:
		var exit *ssh.ExitError
		if errors.As(err, &exit) { // of the last command
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// KeepLogs copies the host's kernel log and journal into the directory of the run.
func (l *Lab) KeepLogs(ctx context.Context, h *Host) error {
	file, err := os.Create(l.run + "/host.log")
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = h.Shell(ctx, Superuser, "dmesg; journalctl --no-pager --boot", file)
	return err
}
