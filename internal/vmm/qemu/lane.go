package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/yamux"

	"banger/internal/guest/link"
	"banger/internal/vmm/process"
)

// lane is one serial port: a session with the guest's agent, which is opened when it is
// needed, and reopened after its end.
type lane struct {
	dir     *process.Dir
	socket  string
	silence time.Duration // how long a connection may have no answer before it is replaced
	busy    chan struct{} // holds one token, without which session may not be used
	session *yamux.Session
}

// usualSilence is long for a guest that is up. One that boots may need longer, so each
// try takes twice as long as the last.
const usualSilence = 10 * time.Second

func newLane(dir *process.Dir, socket string) *lane {
	return &lane{dir: dir, socket: socket, silence: usualSilence, busy: make(chan struct{}, 1)}
}

// The pauses between lost sessions become longer each time, beginning with the second: a
// hostile guest can end sessions for ever.
const (
	leastPause = 10 * time.Millisecond
	mostPause  = time.Second
)

// dial opens a stream. A session can end at any moment, also after it was checked; then
// dial tries the next one.
func (l *lane) dial(ctx context.Context, port int) (net.Conn, error) {
	for pause := time.Duration(0); ; pause = min(2*pause+leastPause, mostPause) {
		session, err := l.connect(ctx)
		if err != nil {
			return nil, err
		}
		stream, err := link.Connect(ctx, session, port)
		if err == nil || !session.IsClosed() || ctx.Err() != nil {
			return stream, err
		}
		if err := process.Pause(ctx, pause); err != nil {
			return nil, fmt.Errorf("wait for the agent: %w", err)
		}
	}
}

// connect returns the session. One caller opens it while the others wait; if that caller
// gives up, the next one tries.
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
	for silence := l.silence; ; silence *= 2 {
		session, err := l.try(ctx, silence)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			continue
		}
		l.session = session
		return session, err
	}
}

// try opens one connection, which has to be answered within silence. If the guest writes
// while a connection ends, QEMU can hold back everything until the next one ends, too.
func (l *lane) try(ctx context.Context, silence time.Duration) (*yamux.Session, error) {
	conn, err := l.dir.Dial(ctx, l.socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	return link.Host(ctx, conn)
}

func (l *lane) close() {
	l.busy <- struct{}{}
	defer func() { <-l.busy }()
	if l.session != nil {
		l.session.Close()
	}
}
