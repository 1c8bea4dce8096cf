package agent

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// acceptPause is how long to wait where the next connection cannot be had yet.
const acceptPause = 50 * time.Millisecond

// accept is l.Accept, but goes on after errors that pass: the end of a listener
// for want of a descriptor would be that of all sessions.
func accept(l net.Listener) (net.Conn, error) {
	for told := false; ; told = true {
		conn, err := l.Accept()
		if err == nil || !passes(err) {
			return conn, err
		}
		if !told {
			logf(prioError, "%v; wait until it passes", err)
		}
		<-time.After(acceptPause)
	}
}

func passes(err error) bool {
	for _, known := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS, unix.ECONNABORTED} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
