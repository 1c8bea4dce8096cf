package stack

import (
	"net/netip"
	"sync"
)

// shares divide something among guests. A guest may have as much as it leaves free: alone
// at most half, and with others that take all they get, about the same as each of them.
// So something is left for a guest that comes later, whatever the others do.
type shares struct {
	mu    sync.Mutex
	free  int
	taken map[netip.Addr]int
}

func newShares(most int) *shares { return &shares{free: most, taken: map[netip.Addr]int{}} }

// take takes n for a guest, if it may have that much.
func (s *shares) take(guest netip.Addr, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[guest]+n > s.free-n {
		return false
	}
	s.add(guest, n)
	return true
}

// swap takes for a guest what it has just given back, also if it has too much of it.
func (s *shares) swap(guest netip.Addr, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(guest, n)
}

// give gives back what a guest has taken.
func (s *shares) give(guest netip.Addr, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(guest, -n)
}

func (s *shares) add(guest netip.Addr, n int) {
	s.free -= n
	if s.taken[guest] += n; s.taken[guest] == 0 {
		delete(s.taken, guest)
	}
}

// buffers are the sizes that the buffers of a connection may have, in each direction. The
// link's round trip is short, so that the largest carries as much as a larger one.
var buffers = []int{1 << 20, 256 << 10, 64 << 10, 16 << 10}

const (
	// roomForBuffers is for all but the smallest, which a guest always gets: the number
	// of connections bounds them.
	roomForBuffers = 64 << 20

	// mostHeld is for packets that guests have sent and the outside has not taken yet.
	// TCP's windows keep kernels far below it; it bounds guests that ignore windows.
	mostHeld = 96 << 20

	gatewayBuffer = 64 << 10
)

// roomOf returns what a connection with buffers of a size takes of the room for them.
func roomOf(buffer int) int {
	if buffer == len(buffers)-1 {
		return 0
	}
	return 2 * buffers[buffer]
}

// chooseBuffer takes room for a connection's buffers and returns their size, as an index.
// The first connections get large ones; the more there are, the smaller they get.
func chooseBuffer(room *shares, guest netip.Addr) int {
	for i := range buffers[:len(buffers)-1] {
		if room.take(guest, roomOf(i)*spare) {
			room.give(guest, roomOf(i)*(spare-1))
			return i
		}
	}
	return len(buffers) - 1
}

// spare is how many connections' buffers of a size a guest must be able to have for the
// next to get buffers of that size.
const spare = 4
