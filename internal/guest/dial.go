package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/guest/wire"
)

// maxOpening bounds the connections of a guest that are being opened. SSH cannot give
// one up: an agent that does not answer holds its place until the SSH connection ends.
const maxOpening = 128

// Dialer opens TCP connections in a guest, all over one SSH connection. It logs in when
// the first is needed, or before by Prepare, and again after the SSH connection has broken:
// that takes longer than everything else. Create it with NewDialer, and Close it.
type Dialer struct {
	open    func(context.Context) (net.Conn, error)
	vm      func() banger.VM
	key     []byte        // empty: the user's
	opening chan struct{} // a token for each connection that is being opened
	turn    chan struct{} // holds a token while someone uses what follows

	login  *login // nil before the first one
	closed bool
}

// NewDialer returns a Dialer. open opens a stream to the guest's SSH port, and vm
// returns whose guest it is. key is a private key that the guest lets in; without one
// the Dialer needs the user's, which may have a passphrase.
func NewDialer(open func(context.Context) (net.Conn, error), vm func() banger.VM, key []byte) *Dialer {
	return &Dialer{open: open, vm: vm, key: key, opening: make(chan struct{}, maxOpening), turn: make(chan struct{}, 1)}
}

// login is an SSH connection.
type login struct {
	*ssh.Client
	conn  *failing
	queue *queued // below conn
	ended chan struct{}
}

func (l *login) works() bool {
	select {
	case <-l.ended:
		return false
	default:
		return !l.conn.failed.Load()
	}
}

// failing remembers that nothing more can be read.
type failing struct {
	net.Conn
	failed atomic.Bool
}

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if err != nil {
		f.failed.Store(true)
	}
	return n, err
}

// ErrClosed is what a Dialer returns after Close.
var ErrClosed = errors.New("connections to the guest are closed")

// Prepare logs in, so that the next connection does not wait for that.
func (d *Dialer) Prepare(ctx context.Context) error {
	_, err := d.logIn(ctx)
	return err
}

// DialTCP connects to an address in the guest, as a program in it would. The guest's
// own refusal is a *UnreachableError. The end of ctx ends the wait.
func (d *Dialer) DialTCP(ctx context.Context, to netip.AddrPort) (*Stream, error) {
	l, err := d.logIn(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case d.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, noAnswer(ctx)
	}
	type result struct {
		*Stream
		error
	}
	opened := make(chan result)
	go func() {
		s, err := l.dial(to)
		<-d.opening
		select {
		case opened <- result{s, err}:
		case <-ctx.Done():
			if err == nil {
				s.Close()
			}
		}
	}()
	select {
	case r := <-opened:
		return r.Stream, r.error
	case <-ctx.Done():
		return nil, noAnswer(ctx)
	}
}

func noAnswer(ctx context.Context) error {
	return fmt.Errorf("the guest's agent does not answer: %w", context.Cause(ctx))
}

// logIn returns the SSH connection, and logs in again if it has broken.
func (d *Dialer) logIn(ctx context.Context) (*login, error) {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, noAnswer(ctx)
	}
	if d.closed {
		return nil, ErrClosed
	}
	if d.login != nil && d.login.works() {
		return d.login, nil
	}
	conn, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	queue := newQueued(conn)
	l := &login{conn: &failing{Conn: queue}, queue: queue, ended: make(chan struct{})}
	if l.Client, err = d.dialSSH(ctx, l.conn); err != nil {
		return nil, err
	}
	go func() {
		l.Wait()
		close(l.ended)
	}()
	d.login = l
	return l, nil
}

func (d *Dialer) dialSSH(ctx context.Context, conn net.Conn) (*ssh.Client, error) {
	vm := d.vm()
	if len(d.key) == 0 {
		return dialSSH(ctx, conn, vm)
	}
	signer, err := ssh.ParsePrivateKey(d.key)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("read the daemon's key: %w", err)
	}
	return dialSSHWith(ctx, conn, vm, "root", signer)
}

// Close ends the SSH connection and everything over it.
func (d *Dialer) Close() error {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	d.closed = true
	if d.login == nil {
		return nil
	}
	err := d.login.Close()
	<-d.login.ended
	d.login = nil
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// UnreachableError is why a guest could not connect to an address in it. Text is
// printable. It is syscall.ECONNREFUSED, whatever the reason.
type UnreachableError struct {
	To   netip.AddrPort
	Text string
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("the guest could not connect to %v: %s", e.To, e.Text)
}

// Is reports whether target is syscall.ECONNREFUSED.
func (e *UnreachableError) Is(target error) bool { return target == syscall.ECONNREFUSED }

func (l *login) dial(to netip.AddrPort) (*Stream, error) {
	channel, requests, err := l.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}{to.Addr().String(), uint32(to.Port()), "127.0.0.1", 0}))
	var refused *ssh.OpenChannelError
	if errors.As(err, &refused) {
		return nil, &UnreachableError{To: to, Text: Printable(refused.Message)}
	}
	if err != nil {
		return nil, fmt.Errorf("connect in the guest: %w", lost(l.Client, err))
	}
	s := &Stream{channel: channel, login: l, gone: make(chan struct{})}
	go func() {
		s.hear(requests)
		close(s.gone)
	}()
	return s, nil
}

// Stream is a connection in a guest. Other than with a TCP connection, Close drops
// nothing that was written before.
type Stream struct {
	channel ssh.Channel
	login   *login
	cut     atomic.Bool // the guest's end was reset
	gone    chan struct{}
}

// hear takes the guest's requests until the channel is closed.
func (s *Stream) hear(requests <-chan *ssh.Request) {
	for r := range requests {
		known := r.Type == wire.ResetRequest
		if known {
			s.cut.Store(true)
		}
		if r.WantReply {
			r.Reply(known, nil)
		}
	}
}

// Read reads. What was cut off does not end with io.EOF: the error is
// syscall.ECONNRESET if the guest's end was reset, and io.ErrUnexpectedEOF if the
// connection to the guest has broken.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.channel.Read(b)
	switch {
	case err != io.EOF:
	case s.cut.Load():
		err = syscall.ECONNRESET
	case s.login.conn.failed.Load():
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write writes. It waits while the guest takes no more.
func (s *Stream) Write(b []byte) (n int, err error) {
	for part := range slices.Chunk(b, maxPacket) {
		s.login.queue.awaitRoom()
		written, err := s.channel.Write(part)
		if n += written; err != nil {
			return n, err
		}
	}
	return n, nil
}

// maxPacket is the most data in one packet of SSH.
const maxPacket = 32 << 10

// CloseWrite tells the guest that no more data comes.
func (s *Stream) CloseWrite() error { return s.channel.CloseWrite() }

// Gone is closed when the guest has closed its end, in both directions.
func (s *Stream) Gone() <-chan struct{} { return s.gone }

// Reset is a Close that the guest does not take for the end of the data. It does not wait.
func (s *Stream) Reset() {
	go func() {
		s.channel.SendRequest(wire.ResetRequest, true, nil) // its answer comes once the guest has obeyed
		s.Close()
	}()
}

// Close ends the connection. Calls that block end once the guest confirms it.
func (s *Stream) Close() error {
	err := s.channel.Close()
	if err == io.EOF { // the guest was first
		return nil
	}
	return err
}
