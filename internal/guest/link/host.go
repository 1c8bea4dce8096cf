package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/yamux"

	"banger/internal/linux"
)

// Host is the host's end of a port: it connects to the guest's agent over conn and
// waits, within ctx, for the answer. It takes over conn: the session closes it at its
// end, and Host does if it fails.
func Host(ctx context.Context, conn net.Conn) (*yamux.Session, error) {
	end := linux.InterruptAfter(ctx, conn)
	in := newScanner(conn)
	err := connect(conn, in)
	if !end() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("wait for the agent on the serial port: %w", err)
	}
	session, err := yamux.Client(newHostEnd(conn, in), settings())
	if err != nil {
		conn.Close()
		return nil, err
	}
	// Nothing accepts streams that a guest opens, so they must not fill buffers.
	if err := session.GoAway(); err != nil {
		session.Close()
		return nil, fmt.Errorf("refuse streams of the guest: %w", err)
	}
	return session, nil
}

// connect sends the mark and drops everything up to the guest's answer.
func connect(conn net.Conn, in *scanner) error {
	own := newNonce()
	again := make(chan struct{}, 1)
	sent := make(chan error, 1)
	go func() { sent <- sendMarks(conn, run(syn, own), again) }()
	err := awaitAck(in, own, again)
	close(again)
	if err != nil {
		linux.Interrupt(conn) // else the marks might wait for ever until the guest reads
	}
	return errors.Join(err, <-sent) // no mark may come after the session's first frame
}

func sendMarks(conn net.Conn, marks []byte, again <-chan struct{}) error {
	for {
		if _, err := conn.Write(marks); err != nil {
			return err
		}
		if _, more := <-again; !more {
			return nil
		}
	}
}

// awaitAck asks for the marks again when the guest reports that it has started:
// what was queued for its predecessor is lost.
func awaitAck(in *scanner, own nonce, again chan<- struct{}) error {
	var seen nonce
	for {
		tok, err := in.next()
		if err != nil {
			return err
		}
		switch {
		case tok.kind == ack && tok.nonce == own:
			return nil
		case tok.kind == reset && tok.nonce != seen:
			seen = tok.nonce
			select {
			case again <- struct{}{}:
			default: // they are about to be sent already
			}
		}
	}
}

// hostEnd is the host's connection of a session. After the guest's answer anything
// that is not a frame ends the session.
type hostEnd struct {
	conn net.Conn
	in   *scanner
	rest []byte // of the last frame
	out  framer
}

func newHostEnd(conn net.Conn, in *scanner) *hostEnd {
	return &hostEnd{conn: conn, in: in, out: framer{write: func(frames []byte) error {
		_, err := conn.Write(frames)
		return err
	}}}
}

var (
	errReset = errors.New("the agent has restarted")
	errTorn  = errors.New("the serial port lost bytes")
)

func (h *hostEnd) Read(b []byte) (int, error) {
	for len(h.rest) == 0 {
		tok, err := h.in.next()
		if err != nil {
			return 0, err
		}
		switch tok.kind {
		case data:
			h.rest = tok.payload
		case reset:
			return 0, errReset
		default:
			return 0, errTorn
		}
	}
	n := copy(b, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

func (h *hostEnd) Write(b []byte) (int, error) { return h.out.Write(b) }

func (h *hostEnd) Close() error { return h.conn.Close() }

// settings returns the settings of a session. There is no keep-alive: the link knows
// when its other end is gone, and a paused guest is not an error.
func settings() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.StreamOpenTimeout = 0
	c.MaxStreamWindowSize = 1 << 20
	c.ConnectionWriteTimeout = 60 * time.Second
	c.LogOutput = io.Discard
	return c
}
