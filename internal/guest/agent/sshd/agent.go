package sshd

import (
	"errors"
	"net"
	"os"

	"banger/internal/guest/agent/socket"
)

// agentSocket is a socket in the guest that leads to the client's SSH agent.
type agentSocket struct {
	dir, path string
	listener  net.Listener
}

// listenAgent makes the socket below parent, which must not be on a disk: an open
// socket would keep the disk busy.
func listenAgent(parent string, f *forwards, user account) (*agentSocket, error) {
	dir, err := os.MkdirTemp(parent, "ssh-agent-")
	if err != nil {
		return nil, err
	}
	a := &agentSocket{dir: dir, path: dir + "/socket"}
	if a.listener, err = net.Listen("unix", a.path); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if user.credential() != nil {
		err = errors.Join(os.Chown(a.path, int(user.uid), int(user.gid)), os.Chown(dir, int(user.uid), int(user.gid)))
	}
	if err = errors.Join(err, os.Chmod(a.path, 0o600)); err != nil {
		a.close()
		return nil, err
	}
	go a.accept(f)
	return a, nil
}

func (a *agentSocket) accept(f *forwards) {
	for {
		conn, err := socket.Accept(a.listener)
		if err != nil {
			return
		}
		go f.offer("auth-agent@openssh.com", nil, conn)
	}
}

func (a *agentSocket) close() {
	a.listener.Close()
	os.RemoveAll(a.dir)
}
