package event

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"banger"
)

func vm(id string, state banger.State) banger.Event {
	return banger.Event{Kind: banger.EventVM, VM: &banger.VM{ID: banger.VMID(id), State: state}}
}

// TestSnapshotThenChanges: an event that the snapshot includes is not repeated, and
// none is missing.
func TestSnapshotThenChanges(t *testing.T) {
	h := NewHub()
	h.Publish(vm("a", banger.Starting)) // before anybody reads
	h.Add(func(context.Context) ([]banger.Event, error) {
		h.Publish(vm("a", banger.Running)) // while the snapshot is made, and in it
		e := vm("a", banger.Running)
		e.Seq = h.Seq()
		h.Publish(vm("b", banger.Stopped)) // not in it
		return []banger.Event{e}, nil
	})
	var got []string
	for e, err := range h.Read(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == banger.EventReady {
			got = append(got, "ready")
			h.Publish(vm("a", banger.Stopping))
			continue
		}
		got = append(got, string(e.VM.ID)+" "+string(e.VM.State))
		if e.VM.State == banger.Stopping {
			break
		}
	}
	if want := []string{"a running", "ready", "b stopped", "a stopping"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestReadersSeeTheSame: with many readers and publishers, each reader gets each
// event once, in the order of the numbers.
func TestReadersSeeTheSame(t *testing.T) {
	const publishers, each = 4, 200
	h := NewHub()
	var ready, readers sync.WaitGroup
	for range 50 {
		ready.Add(1)
		readers.Go(func() {
			next := uint64(1)
			for e, err := range h.Read(t.Context()) {
				switch {
				case err != nil:
					t.Error(err)
					return
				case e.Kind == banger.EventReady:
					ready.Done()
					continue
				case e.Seq != next:
					t.Errorf("event %d, want %d", e.Seq, next)
					return
				}
				if next++; next > publishers*each {
					return
				}
			}
		})
	}
	ready.Wait()
	for range publishers {
		readers.Go(func() {
			for range each {
				h.Publish(vm("a", banger.Running))
			}
		})
	}
	readers.Wait()
}

// TestASlowReaderIsDropped: its last event is an EventDropped, and no publisher waits for it.
func TestASlowReaderIsDropped(t *testing.T) {
	h := NewHub()
	var last banger.Event
	for e, err := range h.Read(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == banger.EventReady {
			for range Kept + 1 { // while it is busy
				h.Publish(vm("a", banger.Running))
			}
		}
		last = e
	}
	if last.Kind != banger.EventDropped || last.Seq != Kept+1 {
		t.Errorf("%+v", last)
	}
}

func TestReadEnds(t *testing.T) {
	h := NewHub()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var failed error
	for e, err := range h.Read(ctx) {
		if failed = err; e.Kind == banger.EventReady {
			cancel()
		}
	}
	if !errors.Is(failed, context.Canceled) {
		t.Error(failed)
	}
	broken := errors.New("no list")
	h.Add(func(context.Context) ([]banger.Event, error) { return nil, broken })
	for _, err := range h.Read(t.Context()) {
		if !errors.Is(err, broken) {
			t.Error(err)
		}
	}
}

// TestReadyIsBeforeTheChanges: its time and number are those of the snapshot.
func TestReadyIsBeforeTheChanges(t *testing.T) {
	h := NewHub()
	h.Add(func(context.Context) ([]banger.Event, error) {
		h.Publish(vm("a", banger.Running)) // too late for the snapshot
		return nil, nil
	})
	var ready banger.Event
	for e, err := range h.Read(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == banger.EventReady {
			ready = e
			continue
		}
		if ready.Seq >= e.Seq || ready.Time.After(e.Time) {
			t.Errorf("%d at %v is not before %d at %v", ready.Seq, ready.Time, e.Seq, e.Time)
		}
		return
	}
}
