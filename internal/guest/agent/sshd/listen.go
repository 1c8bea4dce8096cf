package sshd

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// forwardAddress is the name that a client gives a forward.
type forwardAddress struct {
	Host string
	Port uint32
}

func (a forwardAddress) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

// reserved are the ports below this one, which only root may take.
const reserved = 1024

// listen listens on a TCP port for the client. The reply has the port if it asks for any.
func (f *forwards) listen(a forwardAddress) (reply []byte, err error) {
	if a.Port != 0 && a.Port < reserved && f.user.credential() != nil && f.user.uid != 0 {
		return nil, os.ErrPermission
	}
	l, err := listenTCP(a)
	if err != nil {
		return nil, err
	}
	if a.Port == 0 {
		a.Port = uint32(l.Addr().(*net.TCPAddr).Port)
		reply = ssh.Marshal(struct{ Port uint32 }{a.Port})
	}
	return reply, f.hold(a.String(), l, "forwarded-tcpip", func(conn net.Conn) []byte {
		from := conn.RemoteAddr().(*net.TCPAddr)
		return ssh.Marshal(struct {
			Host   string
			Port   uint32
			Origin string
			From   uint32
		}{a.Host, a.Port, from.IP.String(), uint32(from.Port)})
	})
}

// listenTCP listens where sshd would with GatewayPorts=clientspecified: localhost is
// both loopback addresses, of which a guest may lack the one of IPv6.
func listenTCP(a forwardAddress) (net.Listener, error) {
	switch a.Host {
	case "localhost":
		one, err := net.Listen("tcp", forwardAddress{"127.0.0.1", a.Port}.String())
		if err != nil {
			return nil, err
		}
		a = forwardAddress{"::1", uint32(one.Addr().(*net.TCPAddr).Port)}
		if other, err := net.Listen("tcp", a.String()); err == nil {
			return pair{one, other}, nil
		}
		return one, nil
	case "*":
		a.Host = ""
	}
	return net.Listen("tcp", a.String())
}

// pair is two listeners that end together.
type pair struct {
	net.Listener
	other net.Listener
}

func (p pair) Close() error { return errors.Join(p.Listener.Close(), p.other.Close()) }

func parts(l net.Listener) []net.Listener {
	if p, ok := l.(pair); ok {
		return []net.Listener{p.Listener, p.other}
	}
	return []net.Listener{l}
}

// rooted returns the path that a client means. A @ at its beginning is part of it, not
// the sign of a socket without a file.
func rooted(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return "/" + path
}

// listenUnix listens on a socket for the client, with the user's rights. Only the user
// can use it.
func (f *forwards) listenUnix(path string) error {
	u := userSocket{user: f.user}
	err := asUser(f.user, func() (err error) {
		if u.UnixListener, err = net.ListenUnix("unix", &net.UnixAddr{Name: rooted(path), Net: "unix"}); err != nil {
			return err
		}
		u.SetUnlinkOnClose(false)
		u.made, err = os.Lstat(rooted(path))
		if f.user.credential() == nil { // there is no thread with a umask of its own
			err = errors.Join(err, os.Chmod(rooted(path), 0o600))
		}
		return err
	})
	if err != nil {
		if u.UnixListener != nil {
			u.Close()
		}
		return err
	}
	return f.hold(path, u, "forwarded-streamlocal@openssh.com", func(net.Conn) []byte {
		return ssh.Marshal(struct{ Path, Reserved string }{path, ""})
	})
}

// userSocket is a listener whose file goes with it.
type userSocket struct {
	*net.UnixListener
	user account
	made os.FileInfo // nil if it is not known
}

// Close removes the file, too, with the user's rights: by now, its path may lead to a
// file of somebody else.
func (u userSocket) Close() error {
	err := u.UnixListener.Close()
	path := u.Addr().String()
	return errors.Join(err, asUser(u.user, func() error {
		if now, err := os.Lstat(path); err != nil || u.made == nil || !os.SameFile(now, u.made) {
			return nil
		}
		return os.Remove(path)
	}))
}
