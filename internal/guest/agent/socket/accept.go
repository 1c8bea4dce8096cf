package socket

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/log"
)

// acceptPause is how long Accept waits before it tries again.
const acceptPause = 50 * time.Millisecond

// Accept is l.Accept, but continues after errors that pass. A lack of descriptors
// must not end a listener, and with it all sessions.
func Accept(l net.Listener) (net.Conn, error) {
	for told := false; ; told = true {
		conn, err := l.Accept()
		if err == nil || !passes(err) {
			return conn, err
		}
		if !told {
			log.Errorf("%v; wait until it passes", err)
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
