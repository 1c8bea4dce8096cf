package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"banger/internal/guest/wire"
)

// control serves control connections: requests in, replies and events out.
type control struct {
	hello  func() wire.Hello
	handle func(ctx context.Context, r wire.Request) (any, error)

	mu    sync.Mutex
	conns map[*controlConn]struct{}
}

func newControl(hello func() wire.Hello, handle func(context.Context, wire.Request) (any, error)) *control {
	return &control{hello: hello, handle: handle, conns: map[*controlConn]struct{}{}}
}

// controlConn is one connection. What it sends goes through a queue, so that a
// host that does not read holds up nobody else.
type controlConn struct {
	conn  net.Conn
	queue chan wire.Message
	gone  chan struct{} // closed when the writer has ended
}

// Bounds of one connection.
const (
	queueLength = 256
	maxRequests = 16 // at once
	writeTime   = 30 * time.Second
)

// serve speaks on conn until it ends, and closes it. greeted is called when the
// host has answered the hello, or has closed the connection after it.
func (c *control) serve(conn net.Conn, greeted func()) {
	k := &controlConn{conn: conn, queue: make(chan wire.Message, queueLength), gone: make(chan struct{})}
	c.mu.Lock()
	hello := c.hello()
	k.queue <- wire.Message{Hello: &hello}
	c.conns[k] = struct{}{}
	c.mu.Unlock()
	go k.write()
	c.read(k, greeted)
	c.mu.Lock()
	if _, ok := c.conns[k]; ok {
		delete(c.conns, k)
		close(k.queue)
	}
	c.mu.Unlock()
	conn.Close()
}

func (k *controlConn) write() {
	defer close(k.gone)
	for message := range k.queue {
		line, err := json.Marshal(message)
		if err != nil {
			continue
		}
		k.conn.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := k.conn.Write(append(line, '\n')); err != nil {
			k.conn.Close()
			break
		}
	}
	for range k.queue {
	}
}

// send queues a message; a connection that is not read is closed.
func (c *control) send(k *controlConn, m wire.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.conns[k]; !ok {
		return
	}
	select {
	case k.queue <- m:
	default:
		k.conn.Close()
	}
}

// broadcast sends an event on every connection.
func (c *control) broadcast(e wire.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.conns {
		select {
		case k.queue <- wire.Message{Event: &e}:
		default:
			k.conn.Close()
		}
	}
}

// bye sends the last event on every connection and waits, for a time, until
// the host has all of it.
func (c *control) bye(e wire.Event, within time.Duration) {
	c.broadcast(e)
	c.mu.Lock()
	var ending []*controlConn
	for k := range c.conns {
		ending = append(ending, k)
		delete(c.conns, k)
		close(k.queue)
	}
	c.mu.Unlock()
	var all sync.WaitGroup
	for _, k := range ending {
		all.Go(func() {
			<-k.gone
			// The host's end of the session answers a ping after all that came before.
			if stream, ok := k.conn.(*yamux.Stream); ok {
				stream.Session().Ping()
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(within):
	}
}

func (c *control) read(k *controlConn, greeted func()) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in := bufio.NewReader(k.conn)
	free := make(chan struct{}, maxRequests)
	for first := true; ; first = false {
		message, err := wire.ReadMessage(in)
		if first && greeted != nil {
			greeted()
		}
		if err != nil || first && message.Hello == nil {
			return
		}
		if message.Request == nil {
			continue
		}
		select {
		case free <- struct{}{}:
		case <-k.gone:
			return
		}
		go func() {
			defer func() { <-free }()
			reply := c.answer(ctx, *message.Request)
			c.send(k, wire.Message{Reply: &reply})
		}()
	}
}

func (c *control) answer(ctx context.Context, r wire.Request) wire.Reply {
	reply := wire.Reply{ID: r.ID}
	result, err := c.handle(ctx, r)
	if err == nil && result != nil {
		reply.Result, err = json.Marshal(result)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply
}

// params reads the parameters of a request.
func params[T any](r wire.Request) (T, error) {
	var p T
	if err := json.Unmarshal(r.Params, &p); err != nil {
		return p, fmt.Errorf("read the parameters of %s: %w", r.Method, err)
	}
	return p, nil
}
