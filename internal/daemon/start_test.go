package daemon

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDaemonHoldsNothingOfItsClients: what a shell has opened for the command
// that starts the daemon, such as the lock of a cron job, ends with the command.
func TestDaemonHoldsNothingOfItsClients(t *testing.T) {
	p := newPlace(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETFD, 0); err != nil { // as a shell leaves it
		t.Fatal(err)
	}
	p.connect()
	if flags, err := unix.FcntlInt(w.Fd(), unix.F_GETFD, 0); err != nil || flags != 0 {
		t.Errorf("the client's own descriptor is changed: %d, %v", flags, err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(10 * time.Second)) // the end is there, or never comes
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the daemon holds the pipe open: %v", err)
	}
}
