package helper

import (
	"errors"
	"log/slog"
	"slices"

	"golang.org/x/sys/unix"

	"banger/internal/vmm/process"
)

// needed watches the processes that need the helper.
type needed struct {
	log  *slog.Logger
	all  map[int]*watched
	gone chan *watched // those that have ended; drop them
}

// watched is one of the processes. It never means another that gets the same pid later.
type watched struct {
	*process.Process
	stop chan struct{}
}

func newNeeded(log *slog.Logger) *needed {
	return &needed{log: log, all: map[int]*watched{}, gone: make(chan *watched)}
}

// set watches these processes, and no others, and returns how many of them live.
func (n *needed) set(pids []int) int {
	for pid, w := range n.all {
		if !slices.Contains(pids, pid) || w.ended() {
			n.drop(w)
		}
	}
	for _, pid := range pids {
		if n.all[pid] != nil {
			continue
		}
		p, err := process.OpenProcess(pid)
		if err != nil {
			if !errors.Is(err, unix.ESRCH) {
				n.log.Error("watch who needs the network", "err", err)
			}
			continue
		}
		w := &watched{Process: p, stop: make(chan struct{})}
		n.all[pid] = w
		go func() {
			select {
			case <-w.stop:
				return
			case <-w.Done():
			}
			select {
			case <-w.stop:
			case n.gone <- w:
			}
		}()
	}
	return len(n.all)
}

func (w *watched) ended() bool {
	select {
	case <-w.Done():
		return true
	default:
		return false
	}
}

// drop forgets a process, and returns how many are left. One that ends while set drops it
// may be in gone still.
func (n *needed) drop(w *watched) int {
	if n.all[w.PID()] == w {
		close(w.stop)
		w.Close()
		delete(n.all, w.PID())
	}
	return len(n.all)
}
