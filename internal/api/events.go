package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"banger"
)

// events streams everything that changes, one JSON object a line, until the
// client goes away.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	out := flusher{w, http.NewResponseController(w)}
	// A client that does not read must not hold up the end of the daemon.
	defer context.AfterFunc(r.Context(), func() { out.SetWriteDeadline(time.Now()) })()
	lines := json.NewEncoder(out)
	for e, err := range s.host.Events(r.Context()) {
		if err != nil {
			if r.Context().Err() == nil {
				lines.Encode(line{Error: toWire(err)})
			}
			return
		}
		w.Header().Set("Content-Type", eventStream)
		if lines.Encode(e) != nil {
			return
		}
	}
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
			var l struct {
				banger.Event
				Error *wireError `json:"error"`
			}
			err := lines.Decode(&l)
			switch {
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				err = broken(ctx, fmt.Errorf("the daemon ended: %w", err))
			case err != nil:
				err = broken(ctx, err)
			case l.Error != nil:
				err = l.Error.err()
			}
			if !yield(l.Event, err) || err != nil || l.Kind == banger.EventDropped {
				return
			}
		}
	}
}
