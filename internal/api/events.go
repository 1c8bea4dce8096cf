package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"sync"
	"time"

	"banger"
)

// events streams what there is and everything that changes, one JSON object per
// line, until the client disconnects.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	out := flusher{w, http.NewResponseController(w)}
	// A client that does not read must not delay the daemon's end.
	defer context.AfterFunc(r.Context(), func() { out.SetWriteDeadline(time.Now()) })()
	begun, live := false, false
	for e, err := range s.host.Events(r.Context()) {
		switch {
		case err != nil && begun: // the client or the daemon ends
			return
		case err != nil:
			refuse(w, err)
			return
		case !begun:
			w.Header().Set("Content-Type", eventStream)
			begun = true
		}
		encode := encodeLine // a snapshot and a drop repeat the number of a change
		if live && e.Kind != banger.EventDropped {
			encode = s.newest.line
		}
		if _, err := out.Write(encode(e)); err != nil {
			return
		}
		live = live || e.Kind == banger.EventReady
	}
}

// newest keeps the line of the newest event, so that it is encoded once for all
// readers.
type newest struct {
	mu   sync.Mutex
	seq  uint64
	text []byte
}

// line returns the line of a change.
func (n *newest) line(e banger.Event) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seq != e.Seq {
		n.seq, n.text = e.Seq, encodeLine(e)
	}
	return n.text
}

func encodeLine(e banger.Event) []byte {
	text, _ := json.Marshal(e) // an Event has no field whose encoding can fail
	return append(text, '\n')
}

// Events implements banger.HostService.
func (c *Client) Events(ctx context.Context) iter.Seq2[banger.Event, error] {
	return func(yield func(banger.Event, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := c.do(ctx, "GET", "/events")
		if err != nil {
			yield(banger.Event{}, err)
			return
		}
		defer resp.Body.Close()
		for lines := json.NewDecoder(resp.Body); ; {
			var e banger.Event
			if err := lines.Decode(&e); err != nil {
				yield(banger.Event{}, cutOff(ctx, err))
				return
			}
			if !yield(e, nil) || e.Kind == banger.EventDropped {
				return
			}
		}
	}
}

// cutOff returns why a stream of events ended before its reader wanted it to.
func cutOff(ctx context.Context, err error) error {
	if ctx.Err() == nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return &banger.Error{What: "read the events", Why: errors.New("the daemon has ended"), Fix: "run the command again"}
	}
	return broken(ctx, err)
}
