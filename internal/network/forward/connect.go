package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialTime bounds how long a guest may answer no connection at all before those that
// wait are given up. A busy guest that answers one after the other is waited for.
const dialTime = 40 * time.Second

// connect serves one connection of a client. Until it has ended in order, the kernel
// resets it if this process is killed: an answer that is cut off must not look complete.
func (f *Forwards) connect(to target, client *net.TCPConn) {
	client.SetLinger(0)
	ctx, cancel := to.vm.whileItAnswers(f.patience)
	guest, err := f.Dial(ctx, to.vm.id, to.to)
	cancel()
	if err == nil || errors.Is(err, syscall.ECONNREFUSED) {
		to.vm.answered.Store(time.Now().UnixNano())
	}
	f.note(to, err)
	if err != nil {
		reset(client)
		return
	}
	p := &pair{client: client, guest: guest}
	stop := context.AfterFunc(to.vm.ctx, p.abort)
	defer stop()
	p.run()
}

// note remembers whether connections to the VM work. That nothing listens is no fault.
func (f *Forwards) note(to target, err error) {
	broken := ""
	if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
		broken = err.Error()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := to.vm; v.broken != broken && v.ctx.Err() == nil {
		v.broken = broken
		f.changed[v.id] = true
		f.tell()
		if broken != "" {
			f.Log.Warn("forward a connection", "vm", v.Name, "to", to.to, "err", broken)
		}
	}
}

// pair is a client's connection and the one in the guest.
type pair struct {
	client   *net.TCPConn
	guest    Stream
	answered atomic.Bool // the guest has said all it had
}

// abort ends both. Neither may take it for the end of the data.
func (p *pair) abort() {
	reset(p.client)
	p.resetGuest()
}

func (p *pair) resetGuest() {
	switch guest := p.guest.(type) {
	case resetter:
		guest.Reset()
	case *net.TCPConn:
		reset(guest)
	default:
		guest.Close()
	}
}

func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// run copies both ways until both have ended, or one end takes no more part.
func (p *pair) run() {
	sent := make(chan error, 1)
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() { p.send(sent) })
	if err := copyAll(p.client, p.guest); err != nil {
		p.abort()
		return
	}
	p.answered.Store(true)
	p.client.CloseWrite()
	var gone <-chan struct{}
	if g, ok := p.guest.(goner); ok {
		gone = g.Gone()
	}
	var err error
	select {
	case err = <-sent:
	case <-gone:
	}
	p.client.SetLinger(-1) // the kernel still sends what the client has not got
	p.client.Close()
	if err != nil {
		p.resetGuest()
		return
	}
	p.guest.Close()
}

// send copies from the client to the guest, and tells sent. After that the guest may
// still have much to say, unless the client goes away.
func (p *pair) send(sent chan<- error) {
	err := copyAll(p.guest, p.client)
	if err == nil {
		err = p.guest.CloseWrite()
	}
	sent <- err
	if awaitReset(p.client) && !p.answered.Load() {
		p.abort()
	}
}

// bufferSize is the most that a packet of SSH carries.
const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copyAll lets the kernel copy between two sockets. Other streams share buffers.
func copyAll(to io.Writer, from io.Reader) error {
	if bare(to) && bare(from) {
		_, err := io.Copy(to, from)
		return err
	}
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	// A socket would bring a buffer of its own.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buffer[:])
	return err
}

func bare(stream any) bool {
	switch stream.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// awaitReset waits until the connection has ended in the kernel: the peer has reset it, is
// unreachable, or knows that both directions have ended. It returns false if the
// connection is closed here.
func awaitReset(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		return err != nil || info.State == unix.BPF_TCP_CLOSE
	}) == nil
}
