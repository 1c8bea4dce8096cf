package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/hashicorp/yamux"

	"banger/internal/linux"
)

// RefusedError means that the guest does not serve a port.
type RefusedError struct {
	Port   int
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the guest refused: %q", e.Reason)
}

// Connect opens a stream to a guest port and waits, within ctx, until the guest
// has accepted it. What the guest sends first is not lost. The error is a
// *RefusedError if the guest refused.
func Connect(ctx context.Context, session *yamux.Session, port int) (net.Conn, error) {
	stream, err := openStream(ctx, session)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	end := linux.InterruptAfter(ctx, stream)
	err = sayConnect(stream, port)
	if !end() {
		err = ctx.Err()
	}
	if err != nil {
		stream.Close()
		return nil, fmt.Errorf("connect to guest port %d: %w", port, err)
	}
	return stream, nil
}

// openStream opens a stream. ctx ends the wait, which the session does not support.
func openStream(ctx context.Context, session *yamux.Session) (net.Conn, error) {
	type result struct {
		stream net.Conn
		err    error
	}
	opened := make(chan result)
	go func() {
		stream, err := session.Open()
		select {
		case opened <- result{stream, err}:
		case <-ctx.Done():
			if err == nil {
				stream.Close()
			}
		}
	}()
	select {
	case r := <-opened:
		return r.stream, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func sayConnect(stream net.Conn, port int) error {
	if _, err := fmt.Fprintf(stream, "CONNECT %d\n", port); err != nil {
		return err
	}
	line, err := readLine(stream)
	if err != nil {
		return err
	}
	if reason, refused := strings.CutPrefix(line, "ERR "); refused {
		return &RefusedError{Port: port, Reason: reason}
	}
	if line != fmt.Sprintf("OK %d", port) {
		return fmt.Errorf("unexpected answer %q", line)
	}
	return nil
}

func readConnect(stream net.Conn) (int, error) {
	line, err := readLine(stream)
	if err != nil {
		return 0, err
	}
	number, found := strings.CutPrefix(line, "CONNECT ")
	port, err := strconv.Atoi(number)
	if !found || err != nil || port < 1 || port > 65535 {
		return 0, errors.New("want CONNECT and a port")
	}
	return port, nil
}

// maxLine bounds the lines a stream begins with.
const maxLine = 128

// readLine reads byte by byte: what follows the line belongs to the stream's
// own protocol.
func readLine(r io.Reader) (string, error) {
	line := make([]byte, 0, maxLine)
	var b [1]byte
	for len(line) < maxLine {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("line too long")
}
