// Package event is the stream of everything that changes in the daemon. It owns the
// numbers of the events and the snapshot that each reader gets first; it does not
// decide what is an event. Publishing never waits: a reader that is too slow is
// dropped.
package event

import (
	"context"
	"iter"
	"sync"
	"time"

	"banger"
)

// Kept is how many events a reader may be behind before it is dropped.
const Kept = 4096

// Hub keeps the newest events for its readers. Create one with NewHub.
type Hub struct {
	mu     sync.Mutex
	seq    uint64             // of the newest event
	ring   [Kept]banger.Event // event n is at n % Kept
	change chan struct{}      // closed, and replaced, at each event

	sources []Source
}

// Source returns what exists now, as events. The Seq of each is the number of the
// newest event that it includes: a source calls Hub.Seq while it holds the lock under
// which it publishes.
type Source func(context.Context) ([]banger.Event, error)

// Add adds source to every snapshot. Call it before the first Read.
func (h *Hub) Add(source Source) { h.sources = append(h.sources, source) }

// NewHub returns a hub without events.
func NewHub() *Hub { return &Hub{change: make(chan struct{})} }

// Publish gives e its number and its time, hands it to all readers, and returns the
// number. It does not wait for the readers.
func (h *Hub) Publish(e banger.Event) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	e.Seq, e.Time = h.seq, time.Now().UTC()
	h.ring[h.seq%Kept] = e
	close(h.change)
	h.change = make(chan struct{})
	return h.seq
}

// Seq returns the number of the newest event.
func (h *Hub) Seq() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seq
}

// Read yields a snapshot, an event of the kind EventReady, and then each event that
// the snapshot does not include, in order, until ctx ends. For a reader that is more
// than Kept events behind, the last event is an EventDropped.
func (h *Hub) Read(ctx context.Context) iter.Seq2[banger.Event, error] {
	return func(yield func(banger.Event, error) bool) {
		at, began := h.Seq(), time.Now().UTC()
		past, err := h.snapshot(ctx)
		if err != nil {
			yield(banger.Event{}, err)
			return
		}
		included := map[string]uint64{}
		for _, e := range past {
			included[subject(e)] = e.Seq
			if !yield(e, nil) {
				return
			}
		}
		if !yield(banger.Event{Seq: at, Time: began, Kind: banger.EventReady}, nil) {
			return
		}
		for {
			e, err := h.next(ctx, at)
			if err != nil {
				yield(banger.Event{}, err)
				return
			}
			at = e.Seq
			if e.Kind != banger.EventDropped && e.Seq <= included[subject(e)] {
				continue
			}
			if !yield(e, nil) || e.Kind == banger.EventDropped {
				return
			}
		}
	}
}

func (h *Hub) snapshot(ctx context.Context) ([]banger.Event, error) {
	var all []banger.Event
	for _, source := range h.sources {
		some, err := source(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// next returns the event with the number at+1. It waits until that is published or
// ctx ends.
func (h *Hub) next(ctx context.Context, at uint64) (banger.Event, error) {
	for {
		h.mu.Lock()
		newest, change := h.seq, h.change
		if newest > at {
			e := h.ring[(at+1)%Kept]
			h.mu.Unlock()
			if newest-at > Kept {
				return banger.Event{Seq: newest, Time: time.Now().UTC(), Kind: banger.EventDropped}, nil
			}
			return e, nil
		}
		h.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return banger.Event{}, ctx.Err()
		}
	}
}

// subject returns what identifies the thing that an event is about.
func subject(e banger.Event) string {
	switch {
	case e.VM != nil:
		return "vm " + string(e.VM.ID)
	case e.Image != nil:
		return "image " + e.Image.Name
	case e.Kernel != nil:
		return "kernel " + e.Kernel.Name
	case e.Operation != nil:
		return "operation " + e.Operation.ID
	}
	return ""
}
