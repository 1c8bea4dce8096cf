package sshd

import (
	"errors"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// connection is the connection of a client that has logged in.
type connection struct {
	server   *Server
	client   *ssh.ServerConn
	user     account
	forwards *forwards

	mu     sync.Mutex
	full   bool         // no more sessions
	agent  *agentSocket // of all sessions; nil before it is asked for
	closed bool
}

// serveRequests serves what is about no channel.
func (c *connection) serveRequests(requests <-chan *ssh.Request) {
	for r := range requests {
		var reply []byte
		var err error
		if r.Type == "no-more-sessions@openssh.com" {
			c.mu.Lock()
			c.full = true
			c.mu.Unlock()
		} else {
			reply, err = c.forwards.take(r)
		}
		if r.WantReply {
			r.Reply(err == nil, reply)
		}
	}
}

func (c *connection) serveChannel(offer ssh.NewChannel) {
	switch offer.ChannelType() {
	case "session":
		c.serveSession(offer)
	case "direct-tcpip":
		c.forwards.dialTCP(offer)
	case "direct-streamlocal@openssh.com":
		c.forwards.dialUnix(offer)
	default:
		offer.Reject(ssh.UnknownChannelType, "unknown channel type")
	}
}

func (c *connection) serveSession(offer ssh.NewChannel) {
	c.mu.Lock()
	full := c.full
	c.mu.Unlock()
	if full {
		offer.Reject(ssh.Prohibited, "the client wanted no more sessions")
		return
	}
	channel, requests, err := offer.Accept()
	if err != nil {
		return
	}
	session := &session{server: c.server, conn: c, channel: channel, user: c.user}
	session.serve(requests)
}

// openAgent makes the socket of the client's SSH agent. It may be called again. The
// socket lasts as long as the connection: what a session leaves behind may use it.
func (c *connection) openAgent() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("the client is gone")
	}
	if c.agent != nil {
		return nil
	}
	agent, err := listenAgent(c.server.sockets, c.forwards, c.user)
	if err == nil {
		c.agent = agent
	}
	return err
}

// agentPath returns the path of the SSH agent's socket, or "".
func (c *connection) agentPath() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agent == nil {
		return ""
	}
	return c.agent.path
}

// isOpenSSH reports whether the client understands OpenSSH's own requests.
func (c *connection) isOpenSSH() bool {
	return strings.HasPrefix(string(c.client.ClientVersion()), "SSH-2.0-OpenSSH")
}

func (c *connection) close() {
	c.forwards.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.agent != nil {
		c.agent.close()
	}
}
