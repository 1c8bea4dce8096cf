package sshd

import (
	"errors"
	"io"
	"net"
	"os"
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
	f.dial(offer, "tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
}

// dialUnix connects the client to a socket in the guest. It connects as root, so
// only root may ask for it.
func (f *forwards) dialUnix(offer ssh.NewChannel, user account) {
	var to struct {
		Path     string
		Reserved string
		Zero     uint32
	}
	if err := ssh.Unmarshal(offer.ExtraData(), &to); err != nil || user.uid != uint32(os.Geteuid()) {
		offer.Reject(ssh.Prohibited, "only root may")
		return
	}
	f.dial(offer, "unix", to.Path)
}

func (f *forwards) dial(offer ssh.NewChannel, network, address string) {
	// The kernel gives up after two minutes. A shorter limit would fail connections of a
	// guest that is busy.
	conn, err := net.Dial(network, address)
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
	lost   func() bool // whether the connection to the client has broken

	mu        sync.Mutex
	closed    bool
	listeners map[string]net.Listener
}

// forwardAddress is the name that a client gives a forward.
type forwardAddress struct {
	Host string
	Port uint32
}

func (a forwardAddress) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

func (f *forwards) serveRequests(requests <-chan *ssh.Request) {
	for r := range requests {
		var address forwardAddress
		err := errUnknown
		var reply []byte
		switch r.Type {
		case "tcpip-forward":
			if err = ssh.Unmarshal(r.Payload, &address); err == nil {
				reply, err = f.listen(address)
			}
		case "cancel-tcpip-forward":
			if err = ssh.Unmarshal(r.Payload, &address); err == nil {
				err = f.cancel(address)
			}
		}
		if r.WantReply {
			r.Reply(err == nil, reply)
		}
	}
}

func (f *forwards) listen(a forwardAddress) (reply []byte, err error) {
	host := a.Host
	switch host {
	case "localhost":
		host = "127.0.0.1"
	case "*":
		host = ""
	}
	l, err := net.Listen("tcp", forwardAddress{host, a.Port}.String())
	if err != nil {
		return nil, err
	}
	if a.Port == 0 {
		a.Port = uint32(l.Addr().(*net.TCPAddr).Port)
		reply = ssh.Marshal(struct{ Port uint32 }{a.Port})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		l.Close()
		return nil, errors.New("the client is gone")
	}
	f.listeners[a.String()] = l
	go f.accept(l, a)
	return reply, nil
}

func (f *forwards) accept(l net.Listener, a forwardAddress) {
	for {
		conn, err := socket.Accept(l)
		if err != nil {
			return
		}
		from := conn.RemoteAddr().(*net.TCPAddr)
		payload := ssh.Marshal(struct {
			Host   string
			Port   uint32
			Origin string
			From   uint32
		}{a.Host, a.Port, from.IP.String(), uint32(from.Port)})
		go f.offer("forwarded-tcpip", payload, conn)
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

func (f *forwards) cancel(a forwardAddress) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.listeners[a.String()]
	if !ok {
		return errors.New("no such forward")
	}
	delete(f.listeners, a.String())
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
