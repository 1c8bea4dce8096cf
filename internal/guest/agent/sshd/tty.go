package sshd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
)

// openTTY opens a new pseudo-terminal. Closing the master ends a read that waits.
func openTTY() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	return master, slave, nil
}

// onTTY calls do with the terminal's descriptor. It fails if that is closed.
func onTTY(tty *os.File, do func(fd int) error) error {
	raw, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func setTTYSize(tty *os.File, size *ttyRequest) error {
	return onTTY(tty, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{
			Row: uint16(size.Rows), Col: uint16(size.Cols), Xpixel: uint16(size.Width), Ypixel: uint16(size.Height)})
	})
}

// setTTYModes sets the modes that a client sends for its terminal.
func setTTYModes(tty *os.File, modes string) error {
	return onTTY(tty, func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		wire.SetTerminalModes(t, modes)
		return unix.IoctlSetTermios(fd, unix.TCSETS, t)
	})
}

// foreground returns the process group in the terminal's foreground, or 0.
func foreground(tty *os.File) int {
	group := 0
	onTTY(tty, func(fd int) (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return group
}
