package socket

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// fullListener has errors first, and then connections.
type fullListener struct {
	net.Listener
	errs []error
}

func (l *fullListener) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return &net.UnixConn{}, nil
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, &net.OpError{Op: "accept", Err: err}
}

func TestAcceptGoesOn(t *testing.T) {
	l := &fullListener{errs: []error{unix.EMFILE, unix.ENOMEM, net.ErrClosed}}
	if _, err := Accept(l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v before the listener's end", err)
	}
	if conn, err := Accept(l); conn == nil || err != nil {
		t.Errorf("got %v, %v", conn, err)
	}
}
