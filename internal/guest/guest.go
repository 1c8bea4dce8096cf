// Package guest is the host's side of the agent in a VM: the control
// connection, programs run over SSH, keys, known hosts and the arguments for the
// user's own ssh. It does not know how a stream to the guest is opened.
package guest

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"banger/internal/guest/wire"
	"banger/internal/linux"
)

// Identity is what a guest must prove to know. It is told both at boot.
type Identity struct {
	Token string `json:"token"`
	Nonce string `json:"nonce"`
}

// helloTimeout bounds the exchange of hellos once a stream is open.
const helloTimeout = 30 * time.Second

// ErrStranger means that something else than the agent of this boot answered.
var ErrStranger = errors.New("the guest did not prove to be the VM's agent")

// BootError is a boot step that failed, as the agent reports it. Each field is
// printable.
type BootError struct{ wire.Failure }

func (e *BootError) Error() string { return fmt.Sprintf("boot step %q: %s", e.Step, e.Why) }

// Control is a control connection. Its methods may be called by several
// goroutines.
type Control struct {
	conn    net.Conn
	onEvent func(wire.Event)
	done    chan struct{}

	writing sync.Mutex

	mu      sync.Mutex
	hello   wire.Hello
	last    uint64
	waiting map[uint64]chan wire.Reply
	err     error
}

// OpenControl takes over conn, checks who answers and reads until the connection
// ends. onEvent is called in order, from one goroutine, and must not
// block; an event's Why, Disks and Ports are bounded and printable. A guest whose boot
// failed gives a *BootError.
func OpenControl(ctx context.Context, conn net.Conn, want Identity, program string, onEvent func(wire.Event)) (*Control, error) {
	stop := linux.InterruptAfter(ctx, conn)
	defer stop()
	conn.SetDeadline(time.Now().Add(helloTimeout))
	in := bufio.NewReader(conn)
	hello, err := exchangeHellos(conn, in, want, program)
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	if !stop() {
		conn.Close()
		return nil, ctx.Err()
	}
	conn.SetDeadline(time.Time{})
	c := &Control{conn: conn, hello: hello, onEvent: onEvent, done: make(chan struct{}), waiting: map[uint64]chan wire.Reply{}}
	go c.read(in)
	return c, nil
}

func exchangeHellos(conn net.Conn, in *bufio.Reader, want Identity, program string) (wire.Hello, error) {
	message, err := wire.ReadMessage(in)
	if err != nil {
		return wire.Hello{}, fmt.Errorf("read the agent's hello: %w", err)
	}
	hello := message.Hello
	if hello == nil || !same(hello.Token, want.Token) || !same(hello.Nonce, want.Nonce) {
		return wire.Hello{}, ErrStranger
	}
	if hello.Failed != nil {
		return wire.Hello{}, &BootError{PrintableFailure(*hello.Failed)}
	}
	if !bootID.MatchString(hello.BootID) {
		hello.BootID = "" // the guest has proved who it is; only its id is unknown
	}
	hello.InitWhy, hello.NetworkWhy = Printable(hello.InitWhy), Printable(hello.NetworkWhy)
	hello.Disks, hello.Ports = ReadDisks(hello.Disks), ReadPorts(hello.Ports)
	ours := wire.Message{Hello: &wire.Hello{Version: wire.Version, Program: program}}
	if err := writeMessage(conn, ours); err != nil {
		return wire.Hello{}, fmt.Errorf("send hello: %w", err)
	}
	return *hello, nil
}

func same(got, want string) bool { return subtle.ConstantTimeCompare([]byte(got), []byte(want)) == 1 }

// Hello returns the guest's hello, with the init's state, the disk errors and the ports
// of the last event: an event may come before the caller of OpenControl has looked.
// InitWhy, NetworkWhy, Disks and Ports are bounded and printable.
func (c *Control) Hello() wire.Hello {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello
}

// Done is closed when the connection has ended.
func (c *Control) Done() <-chan struct{} { return c.done }

// Close ends the connection.
func (c *Control) Close() error { return c.conn.Close() }

// Call sends a request and waits for the reply. result may be nil.
func (c *Control) Call(ctx context.Context, method string, params, result any) error {
	request := wire.Request{Method: method}
	if params != nil {
		raw, err := json.Marshal(params)
		if err != nil {
			return err
		}
		request.Params = raw
	}
	answer, err := c.enter(&request)
	if err != nil {
		return err
	}
	defer c.leave(request.ID)
	c.writing.Lock()
	c.conn.SetWriteDeadline(time.Now().Add(helloTimeout))
	err = writeMessage(c.conn, wire.Message{Request: &request})
	c.writing.Unlock()
	if err != nil {
		return fmt.Errorf("ask the agent to %s: %w", method, err)
	}
	select {
	case reply := <-answer:
		if reply.Error != "" {
			return fmt.Errorf("the agent could not %s: %s", method, Printable(reply.Error))
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(reply.Result, result)
	case <-c.done:
		return fmt.Errorf("ask the agent to %s: the connection ended", method)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Control) enter(request *wire.Request) (chan wire.Reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	c.last++
	request.ID = c.last
	answer := make(chan wire.Reply, 1)
	c.waiting[request.ID] = answer
	return answer, nil
}

func (c *Control) leave(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *Control) read(in *bufio.Reader) {
	defer close(c.done)
	defer c.conn.Close()
	for {
		message, err := wire.ReadMessage(in)
		if err != nil {
			c.mu.Lock()
			c.err = fmt.Errorf("the control connection ended: %w", err)
			c.mu.Unlock()
			return
		}
		switch {
		case message.Event != nil:
			event := *message.Event
			event.Why, event.Disks, event.Ports = Printable(event.Why), ReadDisks(event.Disks), ReadPorts(event.Ports)
			c.remember(event)
			c.onEvent(event)
		case message.Reply != nil:
			c.mu.Lock()
			if answer, ok := c.waiting[message.Reply.ID]; ok {
				delete(c.waiting, message.Reply.ID)
				answer <- *message.Reply
			}
			c.mu.Unlock()
		}
	}
}

func (c *Control) remember(event wire.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch event.Kind {
	case wire.EventInit:
		c.hello.Init, c.hello.InitWhy = event.Init, event.Why
	case wire.EventDisks:
		c.hello.Disks = event.Disks
	case wire.EventPorts:
		c.hello.Ports = event.Ports
	}
}

func writeMessage(conn net.Conn, message wire.Message) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(line, '\n'))
	return err
}
