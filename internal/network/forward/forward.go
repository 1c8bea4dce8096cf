// Package forward is the host's side of port forwards: it listens on the host for the
// ports of guests and copies the connections. It owns which VM gets which address of
// the host. It does not know how a connection in a guest is opened, what listens there,
// or when a VM runs: its caller tells.
//
// A VM's port is forwarded from the VM's own loopback address (network.Loopback) and, if
// no one else has it, from the same port of localhost. Ports are also published on
// purpose (banger.Publish). Nothing else is listened on.
package forward

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"banger"
	"banger/internal/network"
)

// Stream is a connection in a guest. Close ends calls that block.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// A Stream may also have
//
//	Gone() <-chan struct{}
//
// which is closed when the guest's end takes no more data either. Without it, a client
// that ignores the end of the guest's data keeps the connection. It may also have
//
//	Reset()
//
// which is a Close that the guest does not take for the end of the data.
type (
	goner    interface{ Gone() <-chan struct{} }
	resetter interface{ Reset() }
)

// Config is what forwards need.
type Config struct {
	Log      *slog.Logger
	Instance network.Instance
	// Dial opens a connection in a guest. A *net.TCPConn or *net.UnixConn is the fastest.
	// An error that is syscall.ECONNREFUSED means that nothing listens there.
	Dial func(ctx context.Context, id banger.VMID, to netip.AddrPort) (Stream, error)
	// Changed is called, if it is set, after List has changed. It may call every method
	// but Close.
	Changed func(id banger.VMID)
}

// Wanted is what a VM wants to be forwarded.
type Wanted struct {
	Name      string // for messages
	Slot      int    // in the instance's subnet: it decides the VM's own address
	Listening []Port
	Published []banger.Publish
	Auto      bool // forward what listens, and not only what is published
}

// Port is a TCP socket that listens in a guest.
type Port struct {
	At      netip.AddrPort // where a program in the guest connects to
	Program string
}

// MaxPorts bounds the ports of a VM that are forwarded, the lowest first.
const MaxPorts = 256

// Forwards holds the forwards of all VMs. Create it with New, and Close it.
type Forwards struct {
	Config
	listen func(netip.AddrPort) (*net.TCPListener, error)
	lowest func() uint16 // port that this process may listen on
	conns  int           // most connections of a VM

	patience time.Duration // with a guest that answers nothing

	wake    chan struct{} // holds a token when there is work
	closing context.Context
	close   context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	vms     map[banger.VMID]*vm
	last    uint64 // place in the queue for localhost
	dirty   bool   // what is wanted has changed
	changed map[banger.VMID]bool
	sockets map[netip.AddrPort]*socket
	targets map[netip.AddrPort]target
	failed  map[netip.AddrPort]error // of addresses that stand for all: a try disturbs others
}

// New returns forwards of nothing.
func New(c Config) *Forwards {
	f := &Forwards{Config: c, listen: listen, lowest: lowest, conns: maxConns, patience: dialTime, wake: make(chan struct{}, 1), vms: map[banger.VMID]*vm{}, changed: map[banger.VMID]bool{},
		sockets: map[netip.AddrPort]*socket{}, failed: map[netip.AddrPort]error{}}
	f.closing, f.close = context.WithCancel(context.Background())
	f.running.Go(f.work)
	return f
}

// Set makes the forwards of a VM equal to what is wanted, soon and in the background.
// Only the newest of many calls counts. Connections stay.
func (f *Forwards) Set(id banger.VMID, w Wanted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing.Err() != nil {
		return
	}
	v := f.vms[id]
	if v == nil {
		v = newVM(id, f.conns)
		f.vms[id] = v
	}
	if !slices.Equal(v.Published, w.Published) {
		clear(f.failed)
	}
	v.Wanted, v.own = w, netip.Addr{}
	if own, err := network.Loopback(f.Instance, w.Slot); err == nil {
		v.own = own
	}
	v.queue(&f.last)
	f.touch()
}

// Remove ends the forwards of a VM and their connections.
func (f *Forwards) Remove(id banger.VMID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.vms[id]; v != nil {
		v.end()
		delete(f.vms, id)
		f.touch()
	}
}

// List returns the ports of a VM by number.
func (f *Forwards) List(id banger.VMID) []banger.Forward {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.vms[id]
	if v == nil {
		return nil
	}
	if f.dirty {
		f.settle()
		f.tell()
	}
	return v.list()
}

// Retry tries again what has failed: a port that another program had may be free. It is
// for a person who asks.
func (f *Forwards) Retry() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.failed)
	f.settle()
	f.tell()
}

// Close ends all forwards and their connections.
func (f *Forwards) Close() {
	f.close()
	f.mu.Lock()
	for id, v := range f.vms {
		v.end()
		delete(f.vms, id)
	}
	f.settle()
	f.mu.Unlock()
	f.running.Wait()
}

// touch makes what is wanted be followed. The caller holds mu.
func (f *Forwards) touch() {
	f.dirty = true
	f.tell()
}

// tell lets the worker look if there is something to do. The caller holds mu.
func (f *Forwards) tell() {
	if !f.dirty && len(f.changed) == 0 {
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// pace is the least time between two changes, so that a guest that opens and closes
// ports all the time costs little.
const pace = 100 * time.Millisecond

// work follows what is wanted until Close.
func (f *Forwards) work() {
	for {
		select {
		case <-f.wake:
		case <-f.closing.Done():
			return
		}
		f.mu.Lock()
		if f.dirty {
			f.settle()
		}
		changed := slices.Sorted(maps.Keys(f.changed))
		clear(f.changed)
		f.mu.Unlock()
		if f.Changed != nil {
			for _, id := range changed {
				f.Changed(id)
			}
		}
		if !pause(f.closing, pace) {
			return
		}
	}
}

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
