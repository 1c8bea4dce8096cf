package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/wire"
)

// sshServer serves SSH connections: sessions, forwards, files.
type sshServer struct {
	host    ssh.Signer
	keys    func() []byte // in the form of authorized_keys
	etc     string
	sockets string // directory for sockets of the server's own
	start   func(*exec.Cmd) error
}

func newSSHServer(c wire.Config, start func(*exec.Cmd) error) (*sshServer, error) {
	host, err := ssh.ParsePrivateKey([]byte(c.HostKey))
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	// The file may change while the machine runs; the configuration does not.
	keys := func() []byte {
		if live, err := os.ReadFile(keysFile); err == nil {
			return live
		}
		return []byte(strings.Join(c.AuthorizedKeys, "\n"))
	}
	return &sshServer{host: host, keys: keys, etc: "/etc", sockets: runDir, start: start}, nil
}

var oomScore sync.Mutex

// startInGuest starts a program in the sessions' control group and in a session
// of its own. It must not have the agent's protection when memory runs out,
// and nothing it starts either: so the agent gives that up for the fork.
func startInGuest(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if group, err := os.Open(cgroupSessions); err == nil {
		defer group.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(group.Fd())
	}
	oomScore.Lock()
	defer oomScore.Unlock()
	setOOMScore("0")
	defer setOOMScore(oomNever)
	return cmd.Start()
}

var errUnknownKey = errors.New("unknown key")

// authorize lets an authorized key be any user of the image: it can be root.
func (s *sshServer) authorize(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
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

// loginTime bounds a connection until its key was accepted.
const loginTime = 60 * time.Second

// serve speaks SSH on conn until it ends, and closes it.
func (s *sshServer) serve(conn net.Conn) {
	defer conn.Close()
	// ssh offers the keys and certificates of the user's agent first; loginTime is
	// the only limit to them.
	config := &ssh.ServerConfig{PublicKeyCallback: s.authorize, ServerVersion: "SSH-2.0-banger", MaxAuthTries: -1}
	config.AddHostKey(s.host)
	conn.SetDeadline(time.Now().Add(loginTime))
	client, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		logf(prioInfo, "ssh: %v", err)
		return
	}
	conn.SetDeadline(time.Time{})
	defer client.Close()
	user, err := lookupAccount(s.etc, client.User())
	if err != nil {
		return
	}
	f := &forwards{client: client, listeners: map[string]net.Listener{}}
	defer f.close()
	go f.serveRequests(requests)
	for offer := range channels {
		go s.serveChannel(offer, client, user)
	}
}

func (s *sshServer) serveChannel(offer ssh.NewChannel, client *ssh.ServerConn, user account) {
	switch offer.ChannelType() {
	case "session":
		channel, requests, err := offer.Accept()
		if err != nil {
			return
		}
		session := &session{server: s, client: client, channel: channel, user: user}
		session.serve(requests)
	case "direct-tcpip":
		forwardTCP(offer)
	case "direct-streamlocal@openssh.com":
		forwardUnix(offer, user)
	default:
		offer.Reject(ssh.UnknownChannelType, "unknown channel type")
	}
}
