package instance

import (
	"time"

	"banger/internal/vmm/process"
)

// A helper that lives this long is sound.
const soundAfter = time.Minute

// restart is how soon a helper is started again: at once, and later and later for one
// that keeps ending.
type restart struct {
	began time.Time // of the last helper
	ended int       // helpers that ended early, one after the other
}

// The first and the longest pause between helpers that keep ending.
const (
	firstPause = time.Second
	mostPause  = time.Minute
)

// pause returns how long to wait after a helper, or an attempt to start one, has ended.
func (r *restart) pause(now time.Time) time.Duration {
	if now.Sub(r.began) >= soundAfter {
		r.ended = 0
	}
	r.ended++
	if r.ended == 1 {
		return 0
	}
	return min(firstPause<<min(r.ended-2, 16), mostPause)
}

// watch starts the helper again when it ends though VMs need it.
func (n *Network) watch(p *process.Process) {
	n.helper = p
	n.restart.began = time.Now()
	go func() {
		select {
		case <-p.Done():
		case <-n.ctx.Done():
			return
		}
		for pause, again := n.lost(p); again; pause, again = n.revive() {
			if process.Pause(n.ctx, pause) != nil {
				return
			}
		}
	}()
}

// lost notes that the helper has ended, and returns when to start another, if at all.
func (n *Network) lost(p *process.Process) (pause time.Duration, again bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.helper != p || n.ctx.Err() != nil {
		return 0, false
	}
	p.Close()
	n.helper = nil
	pause = n.restart.pause(time.Now())
	n.Log.Warn("the network's helper has ended; it is started again", "exit", p.Exit(), "pause", pause)
	return pause, true
}

// revive starts the helper, unless a change has done so or no VM needs it any more, and
// returns when to try again, if at all.
func (n *Network) revive() (pause time.Duration, again bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.helper != nil || len(n.guests) == 0 || n.ctx.Err() != nil {
		return 0, false
	}
	if _, err := n.settle(n.ctx); err != nil {
		pause = n.restart.pause(n.restart.began)
		n.Log.Error("start the network's helper again", "err", err, "pause", pause)
		return pause, n.helper == nil
	}
	return 0, false
}
