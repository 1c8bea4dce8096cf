package link

import (
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// relay connects a guest's port with one host at a time, as a VMM does: it outlives its
// hosts, the bytes of one that left stay queued for the next, and the guest does not
// learn of it.
type relay struct {
	t     *testing.T
	guest *os.File // the VMM's side of the port
	port  *Port

	mu   sync.Mutex
	cond *sync.Cond
	host net.Conn
	gone chan struct{} // all that was read of the last host is queued for the guest
	rest []byte        // from the guest, for whichever host is there
	shut bool
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	port, err := NewPort(os.NewFile(uintptr(pair[0]), "port"))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, guest: os.NewFile(uintptr(pair[1]), "vmm"), port: port}
	r.cond = sync.NewCond(&r.mu)
	done := make(chan struct{})
	go func() { defer close(done); r.fromGuest() }()
	t.Cleanup(func() {
		r.mu.Lock()
		r.shut = true
		r.cond.Broadcast()
		r.mu.Unlock()
		r.hangUp()
		r.guest.Close()
		r.port.Close()
		<-done
	})
	return r
}

// connect connects a new host. The host before it is cut off at any byte.
func (r *relay) connect() net.Conn {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		file := os.NewFile(uintptr(fd), "host")
		ends[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	r.hangUp()
	if r.gone != nil {
		<-r.gone
	}
	gone := make(chan struct{})
	go func() { defer close(gone); r.fromHost(ends[1]) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.host, r.gone = ends[1], gone
	r.cond.Broadcast()
	return ends[0]
}

func (r *relay) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host != nil {
		r.host.Close() // what it had sent and was not read is lost
		r.host = nil
	}
}

func (r *relay) fromHost(host net.Conn) {
	buf := make([]byte, 3000)
	for {
		n, err := host.Read(buf)
		if n > 0 {
			if _, err := r.guest.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			host.Close()
			return
		}
	}
}

func (r *relay) fromGuest() {
	buf := make([]byte, 5000)
	for {
		n, err := r.guest.Read(buf)
		if err != nil {
			return
		}
		r.rest = buf[:n]
		for len(r.rest) > 0 {
			host := r.await()
			if host == nil {
				return
			}
			n, err := host.Write(r.rest)
			r.rest = r.rest[n:]
			if err != nil {
				r.mu.Lock()
				if r.host == host {
					r.host = nil
				}
				r.mu.Unlock()
			}
		}
	}
}

func (r *relay) await() net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.host == nil && !r.shut {
		r.cond.Wait()
	}
	return r.host
}
