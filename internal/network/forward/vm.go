package forward

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"banger"
)

// maxConns bounds the connections of a VM, each of which may hold some megabytes that
// a client does not read. More wait until one ends.
const maxConns = 512

// vm is a VM that has forwards. All but the first fields, up to answered, is under
// Forwards.mu.
type vm struct {
	id    banger.VMID
	slots chan struct{}   // one token for each connection
	ctx   context.Context // of its connections

	answered atomic.Int64 // when it last answered a connection, in nanoseconds

	Wanted
	end       context.CancelFunc
	own       netip.Addr
	ports     []port                    // by number, each once
	published map[banger.Publish]uint64 // places in the queue
	rows      []banger.Forward
	broken    string // why the newest connection failed
}

// port is a port that a guest listens on.
type port struct {
	Port
	number  uint16
	place   uint64 // in the queue for localhost
	standIn uint64 // the same for the port that stands in; 0 while the guest listens on that
}

func newVM(id banger.VMID, conns int) *vm {
	v := &vm{id: id, slots: make(chan struct{}, conns)}
	v.ctx, v.end = context.WithCancel(context.Background())
	return v
}

// whileItAnswers returns a context that ends with the VM's connections, or once the VM has
// answered none of them for that long.
func (v *vm) whileItAnswers(patience time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(v.ctx)
	begun := time.Now()
	go func() {
		for wait := patience; pause(ctx, wait); {
			last := time.Unix(0, v.answered.Load())
			if last.Before(begun) {
				last = begun
			}
			if wait = patience - time.Since(last); wait <= 0 {
				cancel(context.DeadlineExceeded)
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// queue gives what is wanted its place behind what was wanted before.
func (v *vm) queue(last *uint64) {
	next := func(place uint64) uint64 {
		if place == 0 {
			*last++
			place = *last
		}
		return place
	}
	old := &vm{ports: v.ports}
	v.ports = nil
	for _, p := range slices.SortedStableFunc(slices.Values(v.Listening), nearest) {
		number := p.At.Port()
		if n := len(v.ports); number > 0 && (n == 0 || v.ports[n-1].number != number) {
			was, _ := old.find(number)
			v.ports = append(v.ports, port{p, number, next(was.place), was.standIn})
		}
	}
	for i, p := range v.ports {
		if _, taken := v.find(standIn(p.number)); taken || p.number >= privileged {
			v.ports[i].standIn = 0
		} else {
			v.ports[i].standIn = next(p.standIn)
		}
	}
	published := map[banger.Publish]uint64{}
	for _, p := range v.Published {
		published[p] = next(v.published[p])
	}
	v.published = published
}

// nearest sorts by number, and sockets of one number by where it is best to connect: a
// program listens on 127.0.0.1 for those on its own machine.
func nearest(a, b Port) int {
	rank := func(a netip.Addr) int {
		switch a {
		case loopback4:
			return 0
		case loopback6:
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(a.At.Port(), b.At.Port()), cmp.Compare(rank(a.At.Addr()), rank(b.At.Addr())))
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// find returns what listens on a port of the guest.
func (v *vm) find(number uint16) (p port, listens bool) {
	at, listens := slices.BinarySearchFunc(v.ports, number, func(p port, number uint16) int { return cmp.Compare(p.number, number) })
	if !listens {
		return port{Port: Port{At: netip.AddrPortFrom(loopback4, number)}, number: number}, false
	}
	return v.ports[at], true
}

func (v *vm) list() []banger.Forward {
	list := slices.Clone(v.rows)
	for i := range list {
		list[i].Addresses = slices.Clone(list[i].Addresses)
		if v.broken != "" && len(list[i].Addresses) > 0 {
			addReason(&list[i], reason{why: "connections fail: " + v.broken})
		}
	}
	return list
}
