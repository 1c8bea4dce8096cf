package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/wire"
	"banger/internal/linux"
	"banger/internal/vmm/process"
)

// knockSocket is where Firecracker connects when the guest dials wire.PortKnock
// of its host.
var knockSocket = fmt.Sprintf("%s_%d", vsockSocket, wire.PortKnock)

// dialVMM connects to a socket of the VMM, and checks that the VMM listens on it.
func dialVMM(ctx context.Context, dir *process.Dir, name string, proc *process.Process) (net.Conn, error) {
	conn, err := dir.Dial(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := checkPeer(conn, name, proc); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func checkPeer(conn net.Conn, name string, proc *process.Process) error {
	peer, err := linux.Peer(conn)
	if err != nil {
		return err
	}
	if int(peer.Pid) != proc.PID() {
		return fmt.Errorf("process %d listens on %s, the VMM is process %d", peer.Pid, name, proc.PID())
	}
	return nil
}

// knocks receives the guest's signal that it serves its ports from now on: the guest
// connects and hangs up. Every process of the guest can do that; a knock only means that
// it is worth trying to connect.
type knocks struct {
	listener net.Listener
	ctx      context.Context // until close
	leave    context.CancelFunc

	mu    sync.Mutex
	heard bool
	next  chan struct{} // replaced, and closed, at each knock
}

func listenForKnocks(dir *process.Dir) (*knocks, error) {
	file, err := dir.Listen(knockSocket)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	k := &knocks{listener: listener, next: make(chan struct{})}
	k.ctx, k.leave = context.WithCancel(context.Background())
	go k.serve()
	return k, nil
}

// listenAgain listens in place of an earlier daemon.
func listenAgain(dir *process.Dir) (*knocks, error) {
	k, err := listenForKnocks(dir)
	if err != nil {
		return nil, err
	}
	account, err := dir.Account()
	if err == nil {
		err = account.AdmitTo(dir, knockSocket, 0o660)
	}
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

// knockPause is the least time between two knocks that count.
const knockPause = 10 * time.Millisecond

func (k *knocks) serve() {
	for {
		conn, err := k.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		pause := 10 * knockPause // no descriptor is free, for example: the knock waits in the queue
		if err == nil {
			conn.Close()
			k.hear()
			pause = knockPause
		}
		if process.Pause(k.ctx, pause) != nil {
			return
		}
	}
}

func (k *knocks) hear() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.heard = true
	close(k.next)
	k.next = make(chan struct{})
}

// state reports whether there was a knock, and returns a channel that the next one closes.
func (k *knocks) state() (heard bool, next <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.heard, k.next
}

func (k *knocks) close() error {
	k.leave()
	return k.listener.Close()
}

const (
	// patience is how long Firecracker waits for a guest to accept a connection.
	patience = 2 * time.Second
	// lostKnock is when to retry a refused connection without a knock: the guest's
	// queue may have been full, or Firecracker may have had too many streams.
	lostKnock = time.Second
)

// dial connects to a guest port as soon as the guest serves it. A connection that is
// tried before the guest has loaded its driver never succeeds, and one to a port without
// a listener ends at once. After the next knock, dial tries again.
func (m *machine) dial(ctx context.Context, port int) (net.Conn, error) {
	for {
		heard, next := m.knocks.state()
		var again <-chan time.Time
		if heard || m.adopted {
			began := time.Now()
			conn, err := m.try(ctx, port, heard, next)
			if err == nil {
				return conn, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if !errors.Is(err, errRefused) && !errors.Is(err, errKnock) {
				return nil, err
			}
			if time.Since(began) >= patience {
				continue // the guest was too slow
			}
			again = time.After(lostKnock)
		}
		select {
		case <-next:
		case <-again:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the agent: %w", ctx.Err())
		}
	}
}

var (
	errRefused = errors.New("the guest does not take the connection")
	errKnock   = errors.New("the guest has only now begun to serve")
)

// try connects once. If the guest has never knocked, try gives up at its first knock.
func (m *machine) try(ctx context.Context, port int, heard bool, next <-chan struct{}) (net.Conn, error) {
	conn, err := dialVMM(ctx, m.dir, vsockSocket, m.proc)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if !heard {
		go func() {
			select {
			case <-next:
				cancel(errKnock)
			case <-ctx.Done():
			}
		}()
	}
	stop := linux.InterruptAfter(ctx, conn)
	err = shakeHands(conn, port)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// shakeHands asks Firecracker for a guest port. It reads byte by byte: what
// follows the answer is the guest's.
func shakeHands(conn net.Conn, port int) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return refusedBy(err)
	}
	var line []byte
	for b := []byte{0}; b[0] != '\n'; line = append(line, b[0]) {
		if _, err := io.ReadFull(conn, b); err != nil {
			return refusedBy(err)
		}
		if len(line) > 32 {
			return fmt.Errorf("Firecracker answered %q", line)
		}
	}
	if !strings.HasPrefix(string(line), "OK ") {
		return fmt.Errorf("Firecracker answered %q", line)
	}
	return nil
}

func refusedBy(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return errRefused
	}
	return err
}
