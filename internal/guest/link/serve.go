package link

import (
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/yamux"
)

// Handler serves one stream and closes it. It runs in its own goroutine, and
// sees the stream fail when the host's connection ends.
type Handler func(stream net.Conn, port int)

// Serve is the guest's end of a port: it begins a new session whenever a host connects
// and hands its streams to handler. It accepts the listed ports, or any if none is
// listed. It returns only when the port fails or is closed. Then the sessions have
// ended, but handlers may still run.
func Serve(p *Port, handler Handler, ports ...int) error {
	s := &server{port: p, accept: func(stream net.Conn) { serveStream(stream, handler, ports) }}
	defer s.end()
	s.reset()
	in := newScanner(p)
	for {
		tok, err := in.next()
		if err != nil {
			return err
		}
		s.take(tok)
	}
}

// server holds the session of the host that connected last.
type server struct {
	port    *Port
	accept  func(net.Conn)
	current *epoch
}

func (s *server) take(tok token) {
	c := s.current
	switch tok.kind {
	case syn:
		if c == nil || !c.session || c.nonce != tok.nonce {
			s.end()
			s.begin(tok.nonce)
		}
	case data:
		if c != nil && c.session {
			c.in.put(tok.payload) // fails only if the session is over, which tells the host
		}
	default:
		// Bytes that were sent to this session are lost.
		if c != nil && c.session {
			s.end()
			s.reset()
		}
	}
}

// epoch is what the guest sends between two marks: the session of one host connection,
// or only the mark that there is none.
type epoch struct {
	port    *Port
	gen     uint64
	nonce   nonce
	session bool
	in      *feed
	out     framer
	done    chan struct{}
}

func (s *server) open(n nonce) *epoch {
	e := &epoch{port: s.port, gen: s.port.next(), nonce: n, in: newFeed(), done: make(chan struct{})}
	e.out.write = func(frames []byte) error { return e.port.write(e.gen, frames) }
	s.port.settle()
	s.current = e
	return e
}

// begin starts the session of the connection with this nonce.
func (s *server) begin(n nonce) {
	e := s.open(n)
	e.session = true
	go func() {
		defer close(e.done)
		e.serve(s.accept)
	}()
}

// reset tells the next host that there is no session.
func (s *server) reset() {
	e := s.open(newNonce())
	go func() {
		defer close(e.done)
		e.port.write(e.gen, run(reset, e.nonce))
	}()
}

// end ends the current epoch and waits until it writes nothing more.
func (s *server) end() {
	e := s.current
	if e == nil {
		return
	}
	s.port.next()
	e.Close()
	<-e.done
	s.port.settle()
	s.current = nil
}

func (e *epoch) serve(accept func(net.Conn)) {
	if e.port.write(e.gen, mark(ack, e.nonce)) != nil {
		return
	}
	session, err := yamux.Server(e, settings())
	if err != nil {
		return
	}
	for {
		stream, err := session.Accept()
		if err != nil {
			break
		}
		go accept(stream)
	}
	session.Close()
	// If the session failed by itself, the host must know. If it was replaced, this
	// writes nothing.
	e.port.write(e.gen, run(reset, newNonce()))
}

// Read, Write and Close make an epoch the session's connection.

func (e *epoch) Read(b []byte) (int, error) { return e.in.Read(b) }

func (e *epoch) Write(b []byte) (int, error) { return e.out.Write(b) }

func (e *epoch) Close() error {
	e.in.close(errStale)
	return nil
}

// connectTime bounds how long a stream may take to name its port.
const connectTime = 30 * time.Second

func serveStream(stream net.Conn, handler Handler, ports []int) {
	stream.SetDeadline(time.Now().Add(connectTime))
	port, err := readConnect(stream)
	if err == nil && len(ports) > 0 && !slices.Contains(ports, port) {
		err = errors.New("nothing serves port " + strconv.Itoa(port))
	}
	if err != nil {
		io.WriteString(stream, "ERR "+err.Error()+"\n")
		stream.Close()
		return
	}
	if _, err := io.WriteString(stream, "OK "+strconv.Itoa(port)+"\n"); err != nil {
		stream.Close()
		return
	}
	stream.SetDeadline(time.Time{})
	handler(stream, port)
}
