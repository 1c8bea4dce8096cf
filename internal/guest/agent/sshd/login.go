package sshd

import (
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/wire"
)

const (
	// loginSilence is how long a client may send nothing while it logs in: a person may
	// be typing a passphrase. A client that is slow is waited for.
	loginSilence = 2 * time.Minute
	// idleTime is how long a client may keep its turn without sending anything.
	idleTime = 5 * time.Second
	// saysWaiting is how often a client that waits for its turn is told so.
	saysWaiting = 2 * time.Second
)

// line lets a few connections at a time exchange keys, in the order in which they came.
// Each exchange costs CPU time: all of many at once would come to their end so late that
// their clients give up. The zero value is ready to use.
type line struct {
	mu      sync.Mutex
	working int
	waiting []chan struct{}
}

// atOnce is how many exchange keys at a time: each also waits for its client.
func atOnce() int { return 2*runtime.GOMAXPROCS(0) + 2 }

// join takes the last place. The channel is closed when it is the place's turn.
func (l *line) join() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	turn := make(chan struct{})
	if l.working < atOnce() {
		l.working++
		close(turn)
	} else {
		l.waiting = append(l.waiting, turn)
	}
	return turn
}

// before returns how many wait before a place.
func (l *line) before(turn chan struct{}) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, slices.Index(l.waiting, turn))
}

// leave gives up a place, whether it had its turn or not.
func (l *line) leave(turn chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := slices.Index(l.waiting, turn); at >= 0 {
		l.waiting = slices.Delete(l.waiting, at, at+1)
		return
	}
	if len(l.waiting) == 0 {
		l.working--
		return
	}
	close(l.waiting[0])
	l.waiting = l.waiting[1:]
}

// await waits for the turn of a client, and tells it so. It fails when the client is gone.
func (l *line) await(turn chan struct{}, client net.Conn) error {
	ticker := time.NewTicker(saysWaiting)
	defer ticker.Stop()
	for {
		select {
		case <-turn:
			return nil
		case <-ticker.C:
			// RFC 4253, section 4.2: clients ignore lines before the server's version.
			if _, err := fmt.Fprintf(client, "%s%d\r\n", wire.LoginWaits, l.before(turn)); err != nil {
				return err
			}
		}
	}
}

// logIn lets the client at conn log in.
func (s *Server) logIn(conn net.Conn) (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	turn := s.logins.join()
	leave := sync.OnceFunc(func() { s.logins.leave(turn) })
	defer leave()
	if err := s.logins.await(turn, conn); err != nil {
		return nil, nil, nil, err
	}
	// ssh offers the keys and certificates of the user's agent first.
	config := &ssh.ServerConfig{PublicKeyCallback: s.authorize, ServerVersion: "SSH-2.0-banger", MaxAuthTries: -1,
		PreAuthConnCallback: func(ssh.ServerPreAuthConn) { leave() }}
	if s.ciphers != nil {
		config.Ciphers = s.ciphers()
	}
	config.AddHostKey(s.host)
	login := &login{Conn: conn, idle: leave}
	client, channels, requests, err := ssh.NewServerConn(login, config)
	login.over()
	return client, channels, requests, err
}

// login is a connection that fails if its client is silent for too long, until the
// login is over.
type login struct {
	net.Conn
	idle func() // called when the client keeps the server waiting

	mu   sync.Mutex
	done bool
}

func (l *login) Read(b []byte) (int, error) {
	if l.await() {
		defer time.AfterFunc(idleTime, l.idle).Stop()
	}
	return l.Conn.Read(b)
}

// await sets the deadline of a read, and reports whether there is one.
func (l *login) await() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return false
	}
	l.SetReadDeadline(time.Now().Add(loginSilence))
	return true
}

func (l *login) over() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = true
	l.SetReadDeadline(time.Time{})
}
