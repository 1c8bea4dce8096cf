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

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/layout"
	"banger/internal/guest/agent/log"
	"banger/internal/guest/wire"
)

// Server serves SSH connections.
type Server struct {
	host     ssh.Signer
	keys     func() []byte // in the form of authorized_keys
	etc      string
	sockets  string   // directory for its own sockets
	locales  string   // where the C library looks for them
	terminfo []string // where ncurses looks for terminals
	motd     []string // what a login prints
	sftp     []string // OpenSSH's servers of files; without one of them, the agent has its own
	route    route
	managers *managers       // nil: there are none
	ciphers  func() []string // of the guest's CPU; nil: those of the library
	start    func(*exec.Cmd) error
	logins   line
}

// route has the addresses that a session is told of.
type route struct{ client, server string }

// variables returns the variables that tell of the connection. What carries it has no
// port, for which OpenSSH has a number, too.
func (r route) variables() variables {
	const noPort, port = "65535", "22"
	return variables{
		"SSH_CLIENT":     r.client + " " + noPort + " " + port,
		"SSH_CONNECTION": r.client + " " + noPort + " " + r.server + " " + port,
	}
}

// routeOf returns the addresses of guest and host.
func routeOf(n *wire.Network) route {
	if n == nil {
		return route{client: "127.0.0.1", server: "127.0.0.1"}
	}
	return route{client: n.Gateway.String(), server: n.Addr.Addr().String()}
}

// New returns a server with the host key and the keys of a configuration. start
// starts the programs of its sessions, and booted reports whether the image's services
// are up.
func New(c wire.Config, start func(*exec.Cmd) error, booted func() bool) (*Server, error) {
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
	return &Server{host: host, keys: keys, etc: "/etc", sockets: layout.RunDir, ciphers: usualCiphers, start: start,
		locales: "/usr/lib/locale", terminfo: terminfoDirs, motd: motdFiles, sftp: sftpServers,
		route: routeOf(c.Network), managers: newManagers(start, booted)}, nil
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

// Serve serves SSH on conn until it ends, and closes it.
func (s *Server) Serve(conn net.Conn) {
	defer conn.Close()
	carrier := &carrier{Conn: conn}
	client, channels, requests, err := s.logIn(carrier)
	if err != nil {
		log.Infof("ssh: %v", err)
		return
	}
	defer client.Close()
	user, err := lookupAccount(s.etc, client.User())
	if err != nil {
		return
	}
	c := &connection{server: s, client: client, user: user}
	c.forwards = &forwards{client: client, user: user, lost: carrier.failed.Load, listeners: map[string]net.Listener{}}
	defer c.close()
	go c.serveRequests(requests)
	for offer := range channels {
		go c.serveChannel(offer)
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
