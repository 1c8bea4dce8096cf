package sshd

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/linux"
)

// An ExecRequest ends with its program, whatever still has its output open: a server in
// the background may have it for ever. What the program has written arrives. What comes
// later from others, such as the tee that a shell writes to, is waited for within
// lateTime, and is at most lateData.
const (
	lateTime = 2 * time.Second
	lateData = 1 << 20
)

// output is what a program writes, until everything that has it open has ended.
type output struct {
	to   io.Writer
	from *os.File
	late func(io.Writer, *os.File) // copies what comes after stop
}

// copy copies the output to the client until its end, or until stop.
func (o *output) copy() {
	if _, err := io.Copy(o.to, o.from); errors.Is(err, os.ErrDeadlineExceeded) {
		o.late(o.to, o.from)
	}
}

// stop makes copy return soon.
func (o *output) stop() { linux.InterruptRead(o.from) }

// drop reads the output until its end: a program in the background that writes to a
// closed pipe would die.
func (o *output) drop() {
	defer o.from.Close()
	for err := os.ErrDeadlineExceeded; errors.Is(err, os.ErrDeadlineExceeded); { // stop may come later
		o.from.SetReadDeadline(time.Time{})
		_, err = io.Copy(io.Discard, o.from)
	}
}

// copyLate copies what is in a pipe and what comes within the limits. Only the time in
// which nothing comes counts, not the time that a slow client takes.
func copyLate(to io.Writer, from *os.File) {
	buf := make([]byte, 32<<10)
	for wait, left := lateTime, lateData; wait > 0 && left > 0; {
		begun := time.Now()
		from.SetReadDeadline(begun.Add(wait))
		n, err := from.Read(buf)
		wait -= time.Since(begun)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		left -= n
	}
}

// maxPending is more than the kernel buffers of a terminal's output.
const maxPending = 128 << 10

// drainTTY copies what has been written to a terminal so far, up to a limit: a
// program may still be writing.
func drainTTY(to io.Writer, tty *os.File) {
	buf := make([]byte, 4<<10)
	for left := maxPending; left > 0; {
		n := 0
		err := onTTY(tty, func(fd int) (err error) {
			n, err = unix.Read(fd, buf)
			return err
		})
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		left -= n
	}
}
