// Package control serves control connections in a guest: requests in, replies and
// events out. It does not know what a request does.
package control

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

// Server serves control connections.
type Server struct {
	hello  func() wire.Hello
	handle func(ctx context.Context, r wire.Request) (any, error)

	mu    sync.Mutex
	conns map[*connection]struct{}
}

// New returns a server that opens each connection with a hello and answers requests
// by handle.
func New(hello func() wire.Hello, handle func(context.Context, wire.Request) (any, error)) *Server {
	return &Server{hello: hello, handle: handle, conns: map[*connection]struct{}{}}
}

// connection sends through a queue, so that a host that does not read holds up no
// other.
type connection struct {
	conn  net.Conn
	queue chan wire.Message
	gone  chan struct{} // closed when the writer has ended
}

// Bounds of one connection: messages in its queue, requests at once, one write.
const (
	queueLength = 256
	maxRequests = 16
	writeTime   = 30 * time.Second
)

// Serve serves conn until it ends, and closes it. greeted is called when the
// host has answered the hello, or has closed the connection after it.
func (s *Server) Serve(conn net.Conn, greeted func()) {
	c := &connection{conn: conn, queue: make(chan wire.Message, queueLength), gone: make(chan struct{})}
	s.mu.Lock()
	hello := s.hello()
	c.queue <- wire.Message{Hello: &hello}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	go c.write()
	s.read(c, greeted)
	s.mu.Lock()
	if _, ok := s.conns[c]; ok {
		delete(s.conns, c)
		close(c.queue)
	}
	s.mu.Unlock()
	conn.Close()
}

func (c *connection) write() {
	defer close(c.gone)
	for message := range c.queue {
		line, err := json.Marshal(message)
		if err != nil {
			continue
		}
		c.conn.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := c.conn.Write(append(line, '\n')); err != nil {
			c.conn.Close()
			break
		}
	}
	for range c.queue {
	}
}

// send queues a message. It closes a connection that is not read.
func (s *Server) send(c *connection, m wire.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; !ok {
		return
	}
	select {
	case c.queue <- m:
	default:
		c.conn.Close()
	}
}

// Broadcast sends an event on every connection.
func (s *Server) Broadcast(e wire.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		select {
		case c.queue <- wire.Message{Event: &e}:
		default:
			c.conn.Close()
		}
	}
}

// Bye sends the last event on every connection. It waits until the host has all of
// it, or the time is over.
func (s *Server) Bye(e wire.Event, within time.Duration) {
	s.Broadcast(e)
	s.mu.Lock()
	var ending []*connection
	for c := range s.conns {
		ending = append(ending, c)
		delete(s.conns, c)
		close(c.queue)
	}
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range ending {
		all.Go(func() {
			<-c.gone
			// The host answers a ping after it has read everything before it.
			if stream, ok := c.conn.(*yamux.Stream); ok {
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

func (s *Server) read(c *connection, greeted func()) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in := bufio.NewReader(c.conn)
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
		case <-c.gone:
			return
		}
		go func() {
			defer func() { <-free }()
			reply := s.answer(ctx, *message.Request)
			s.send(c, wire.Message{Reply: &reply})
		}()
	}
}

func (s *Server) answer(ctx context.Context, r wire.Request) wire.Reply {
	reply := wire.Reply{ID: r.ID}
	result, err := s.handle(ctx, r)
	if err == nil && result != nil {
		reply.Result, err = json.Marshal(result)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply
}

// Params reads the parameters of a request.
func Params[T any](r wire.Request) (T, error) {
	var p T
	if err := json.Unmarshal(r.Params, &p); err != nil {
		return p, fmt.Errorf("read the parameters of %s: %w", r.Method, err)
	}
	return p, nil
}
