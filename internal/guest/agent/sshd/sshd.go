// Package sshd serves SSH in a guest: programs, terminals, forwards and files, for
// any user of the image. It does not know how connections reach it.
package sshd

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// Server serves SSH connections.
type Server struct {
	host    ssh.Signer
	keys    func() []byte // in the form of authorized_keys
	etc     string
	sockets string // directory for its own sockets
	ciphers func() []string
	start   func(*exec.Cmd) error
}

// New returns a server with the host key and the keys of a configuration. start
// starts the programs of its sessions.
func New(c wire.Config, start func(*exec.Cmd) error) (*Server, error) {
	host, err := ssh.ParsePrivateKey([]byte(c.HostKey))
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	// The file may change while the guest runs; the configuration does not.
	keys := func() []byte {
		if live, err := os.ReadFile(layout.KeysFile); err == nil {
			return live
		}
		return []byte(strings.Join(c.AuthorizedKeys, "\n"))
	}
	return &Server{host: host, keys: keys, etc: "/etc", sockets: layout.RunDir, ciphers: usualCiphers, start: start}, nil
}

var errUnknownKey = errors.New("unknown key")

// authorize lets an authorized key log in as any user of the image: it could be
// root anyway.
func (s *Server) authorize(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if _, err := lookupAccount(s.etc, meta.User()); err != nil {
		return nil, err
	}
	want, rest := key.Marshal(), s.keys()
	for len(rest) > 0 {
		known, _, _, next, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			break
		}
		if bytes.Equal(known.Marshal(), want) {
			return nil, nil
		}
		rest = next
	}
	return nil, errUnknownKey
}

// loginTime bounds how long a client may take to log in.
const loginTime = 60 * time.Second

// Serve serves SSH on conn until it ends, and closes it.
func (s *Server) Serve(conn net.Conn) {
	defer conn.Close()
	// ssh offers the keys and certificates of the user's agent first; loginTime is
	// the only limit to them.
	config := &ssh.ServerConfig{PublicKeyCallback: s.authorize, ServerVersion: "SSH-2.0-banger", MaxAuthTries: -1}
	config.Ciphers = s.ciphers()
	config.AddHostKey(s.host)
	conn.SetDeadline(time.Now().Add(loginTime))
	carrier := &carrier{Conn: conn}
	client, channels, requests, err := ssh.NewServerConn(carrier, config)
	if err != nil {
		log.Infof("ssh: %v", err)
		return
	}
	conn.SetDeadline(time.Time{})
	defer client.Close()
	user, err := lookupAccount(s.etc, client.User())
	if err != nil {
		return
	}
	f := &forwards{client: client, lost: carrier.failed.Load, listeners: map[string]net.Listener{}}
	defer f.close()
	go f.serveRequests(requests)
	for offer := range channels {
		go s.serveChannel(offer, f, user)
	}
}

// carrier remembers that nothing more can be read from the client: every channel then
// ends as if the client had closed it.
type carrier struct {
	net.Conn
	failed atomic.Bool
}

func (c *carrier) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.failed.Store(true)
	}
	return n, err
}

func (s *Server) serveChannel(offer ssh.NewChannel, f *forwards, user account) {
	switch offer.ChannelType() {
	case "session":
		channel, requests, err := offer.Accept()
		if err != nil {
			return
		}
		session := &session{server: s, forwards: f, channel: channel, user: user}
		session.serve(requests)
	case "direct-tcpip":
		f.dialTCP(offer)
	case "direct-streamlocal@openssh.com":
		f.dialUnix(offer, user)
	default:
		offer.Reject(ssh.UnknownChannelType, "unknown channel type")
	}
}
