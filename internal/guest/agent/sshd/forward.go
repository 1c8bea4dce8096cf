package sshd

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/socket"
)

// dialTime bounds how long a connection for the client may take.
const dialTime = 30 * time.Second

// forwardTCP connects the client to an address that the guest can reach.
func forwardTCP(offer ssh.NewChannel) {
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
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))), dialTime)
	forward(offer, conn, err)
}

// forwardUnix connects the client to a socket in the guest, with the user's rights.
func forwardUnix(offer ssh.NewChannel, user account) {
	var to struct {
		Path     string
		Reserved string
		Zero     uint32
	}
	if err := ssh.Unmarshal(offer.ExtraData(), &to); err != nil {
		offer.Reject(ssh.ConnectionFailed, "malformed request")
		return
	}
	var conn net.Conn
	err := asUser(user, func() (err error) {
		conn, err = net.DialTimeout("unix", rooted(to.Path), dialTime)
		return err
	})
	forward(offer, conn, err)
}

func forward(offer ssh.NewChannel, conn net.Conn, err error) {
	if err != nil {
		offer.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := offer.Accept()
	if err != nil {
		conn.Close()
		return
	}
	join(channel, requests, conn)
}

// halfCloser can end one direction alone.
type halfCloser interface{ CloseWrite() error }

// join copies both ways until both have ended. If the client closes the channel or
// goes away, the connection ends as well: it might never send anything more.
func join(channel ssh.Channel, requests <-chan *ssh.Request, conn net.Conn) {
	gone, told := make(chan struct{}), make(chan struct{})
	go func() {
		ssh.DiscardRequests(requests)
		close(gone)
	}()
	go func() {
		io.Copy(channel, conn)
		channel.CloseWrite()
		close(told)
	}()
	io.Copy(conn, channel)
	conn.(halfCloser).CloseWrite()
	select {
	case <-told:
	case <-gone:
	}
	conn.Close()
	<-told
	channel.Close()
}

// forwards holds what listens in the guest and leads to the client.
type forwards struct {
	client *ssh.ServerConn
	user   account

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
	join(channel, requests, conn)
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
