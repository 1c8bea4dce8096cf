package guest

import (
	"errors"
	"net"
	"sync"
)

const (
	// queueRoom is how much may wait before those who write data wait as well.
	queueRoom = 256 << 10
	// maxQueue is more than all who write data at once can add, and the answers to a
	// guest that behaves.
	maxQueue = 32 << 20
)

// queued is a connection whose Write waits for nobody. The package ssh answers the end
// of a channel before it reads on: two ends that both wait to write would wait for ever.
// Those who write data call awaitRoom first.
type queued struct {
	net.Conn

	mu      sync.Mutex
	changed sync.Cond
	waiting []byte
	err     error // nothing more is written
}

func newQueued(conn net.Conn) *queued {
	q := &queued{Conn: conn}
	q.changed.L = &q.mu
	go q.send()
	return q
}

func (q *queued) Write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil && len(q.waiting)+len(b) > maxQueue {
		q.fail(errors.New("the guest asks for answers that it does not read"))
	}
	if q.err != nil {
		return 0, q.err
	}
	q.waiting = append(q.waiting, b...)
	q.changed.Broadcast()
	return len(b), nil
}

// awaitRoom waits until the other end has taken most of what was written.
func (q *queued) awaitRoom() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.err == nil && len(q.waiting) > queueRoom {
		q.changed.Wait()
	}
}

// send writes what waits until the connection ends.
func (q *queued) send() {
	var block []byte
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for q.err == nil && len(q.waiting) == 0 {
			q.changed.Wait()
		}
		if q.err != nil {
			return
		}
		block, q.waiting = q.waiting, block[:0]
		q.changed.Broadcast()
		q.mu.Unlock()
		_, err := q.Conn.Write(block)
		q.mu.Lock()
		if err != nil {
			q.fail(err)
		}
	}
}

// fail ends the connection. The caller holds mu.
func (q *queued) fail(err error) error {
	if q.err == nil {
		q.err = err
	}
	q.waiting = nil
	q.changed.Broadcast()
	return q.Conn.Close()
}

func (q *queued) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fail(net.ErrClosed)
}
