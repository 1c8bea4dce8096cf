package qemu

import (
	"context"
	"fmt"
	"net"

	"github.com/hashicorp/yamux"

	"banger/internal/guest/link"
	"banger/internal/vmm"
)

// lane is one serial port: a session with the guest's agent, made when it is
// needed and made again when it has ended.
type lane struct {
	dir     *vmm.Dir
	socket  string
	busy    chan struct{} // holds one token: who has it may touch session
	session *yamux.Session
}

func newLane(dir *vmm.Dir, socket string) *lane {
	return &lane{dir: dir, socket: socket, busy: make(chan struct{}, 1)}
}

// dial opens a stream. A session can end at any moment, also between being
// found good and being used; then the next one is tried.
func (l *lane) dial(ctx context.Context, port int) (net.Conn, error) {
	for {
		session, err := l.connect(ctx)
		if err != nil {
			return nil, err
		}
		stream, err := link.Connect(ctx, session, port)
		if err == nil || !session.IsClosed() || ctx.Err() != nil {
			return stream, err
		}
	}
}

// connect returns the session. One caller makes it, the others wait for it; when
// that one gives up the next one tries.
func (l *lane) connect(ctx context.Context) (*yamux.Session, error) {
	select {
	case l.busy <- struct{}{}:
		defer func() { <-l.busy }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the agent: %w", ctx.Err())
	}
	if l.session != nil && !l.session.IsClosed() {
		return l.session, nil
	}
	conn, err := l.dir.Dial(ctx, l.socket)
	if err != nil {
		return nil, err
	}
	if l.session, err = link.Host(ctx, conn); err != nil {
		return nil, err
	}
	return l.session, nil
}

func (l *lane) close() {
	l.busy <- struct{}{}
	defer func() { <-l.busy }()
	if l.session != nil {
		l.session.Close()
	}
}
