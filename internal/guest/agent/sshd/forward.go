package sshd

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/socket"
	"banger/internal/guest/wire"
)

// dialTCP connects the client to an address that the guest can reach.
func (f *forwards) dialTCP(offer ssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if err := ssh.Unmarshal(offer.ExtraData(), &to); err != nil {
		offer.Reject(ssh.ConnectionFailed, "malformed request")
		return
	}
	f.dial(offer, func() (net.Conn, error) {
		return net.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	})
}

// dialUnix connects the client to a socket in the guest, with the user's rights.
func (f *forwards) dialUnix(offer ssh.NewChannel) {
	var to struct {
		Path     string
		Reserved string
		Zero     uint32
	}
	if err := ssh.Unmarshal(offer.ExtraData(), &to); err != nil {
		offer.Reject(ssh.ConnectionFailed, "malformed request")
		return
	}
	f.dial(offer, func() (conn net.Conn, err error) {
		err = asUser(f.user, func() (err error) {
			conn, err = net.Dial("unix", rooted(to.Path))
			return err
		})
		return conn, err
	})
}

// dial connects the client to what connect connects to. The kernel gives up after two
// minutes; a shorter limit would fail connections of a guest that is busy.
func (f *forwards) dial(offer ssh.NewChannel, connect func() (net.Conn, error)) {
	conn, err := connect()
	if err != nil {
		offer.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := offer.Accept()
	if err != nil {
		conn.Close()
		return
	}
	join(channel, requests, conn, f.lost)
}

// halfCloser can end one direction alone.
type halfCloser interface{ CloseWrite() error }

// join copies both ways until both have ended. If the client closes the channel or
// goes away, the connection ends as well: it might never send anything more. What was
// cut off at one end, or by the loss of the client, does not look complete at the other.
func join(channel ssh.Channel, requests <-chan *ssh.Request, conn net.Conn, lost func() bool) {
	gone, told := make(chan struct{}), make(chan struct{})
	go func() {
		obey(requests, conn)
		close(gone)
	}()
	go func() {
		tell(channel, conn)
		close(told)
	}()
	io.Copy(conn, channel)
	if lost() {
		reset(conn)
	}
	conn.(halfCloser).CloseWrite()
	select {
	case <-told:
	case <-gone:
	}
	conn.Close()
	<-told
	channel.Close()
}

// tell sends the client all that comes from conn.
func tell(channel ssh.Channel, conn net.Conn) {
	if _, err := io.Copy(channel, conn); err == nil {
		channel.CloseWrite()
		return
	}
	channel.SendRequest(wire.ResetRequest, true, nil)
	channel.Close()
}

// obey resets conn when the client asks for that, until the channel is closed.
func obey(requests <-chan *ssh.Request, conn net.Conn) {
	for r := range requests {
		known := r.Type == wire.ResetRequest
		if known {
			reset(conn)
		}
		if r.WantReply {
			r.Reply(known, nil)
		}
	}
}

// reset closes a connection so that its other end sees an error.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// forwards holds what leads from the guest to the client, and from the client to the
// guest.
type forwards struct {
	client *ssh.ServerConn
	user   account
	lost   func() bool // whether the connection to the client has broken

	mu        sync.Mutex
	closed    bool
	listeners map[string]net.Listener
}

// take acts on a request of the client.
func (f *forwards) take(r *ssh.Request) (reply []byte, err error) {
	var address forwardAddress
	var at struct{ Path string }
	switch r.Type {
	case "tcpip-forward", "cancel-tcpip-forward":
		err = ssh.Unmarshal(r.Payload, &address)
	case "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com":
		err = ssh.Unmarshal(r.Payload, &at)
	default:
		return nil, errUnknown
	}
	if err != nil {
		return nil, err
	}
	switch r.Type {
	case "tcpip-forward":
		return f.listen(address)
	case "cancel-tcpip-forward":
		return nil, f.cancel(address.String())
	case "streamlocal-forward@openssh.com":
		return nil, f.listenUnix(at.Path)
	}
	return nil, f.cancel(at.Path)
}

// hold accepts connections for the client until the forward is cancelled. kind and
// payload say what for.
func (f *forwards) hold(name string, l net.Listener, kind string, payload func(net.Conn) []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.listeners[name] != nil {
		l.Close()
		return errors.New("the client is gone, or has this forward")
	}
	f.listeners[name] = l
	for _, l := range parts(l) {
		go f.accept(l, kind, payload)
	}
	return nil
}

func (f *forwards) accept(l net.Listener, kind string, payload func(net.Conn) []byte) {
	for {
		conn, err := socket.Accept(l)
		if err != nil {
			return
		}
		go f.offer(kind, payload(conn), conn)
	}
}

func (f *forwards) offer(kind string, payload []byte, conn net.Conn) {
	channel, requests, err := f.client.OpenChannel(kind, payload)
	if err != nil {
		conn.Close()
		return
	}
	join(channel, requests, conn, f.lost)
}

func (f *forwards) cancel(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.listeners[name]
	if !ok {
		return errors.New("no such forward")
	}
	delete(f.listeners, name)
	return l.Close()
}

func (f *forwards) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for name, l := range f.listeners {
		delete(f.listeners, name)
		l.Close()
	}
}
