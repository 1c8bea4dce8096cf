package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"banger"
)

// answer serves a short request.
func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := f(r)
		if err != nil {
			refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(result)
	}
}

// refuse answers with err and the status of its kind.
func refuse(w http.ResponseWriter, err error) {
	e := toWire(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statuses[e.Kind])
	json.NewEncoder(w).Encode(line{Error: e})
}

// operation serves a long request, whose options are the body's JSON. It is
// logged once, when it has ended; its id is in all that the log says of it. An
// error carries the id once there were steps: before, the log knows no more.
func operation[T any](s *Server, verb string, run func(ctx context.Context, ref string, opts T, progress banger.Progress) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		opts, err := decode[T](w, r)
		if err != nil {
			refuse(w, err)
			return
		}
		began, op := time.Now(), newOp()
		events := &events{w: w}
		ref := r.PathValue("ref")
		noun := "vm"
		switch spec := any(opts).(type) {
		case banger.CreateVM:
			ref = spec.Name
		case banger.ImportImage:
			ref, noun = spec.Name, "image"
		case struct{}:
			noun = "image"
		}
		progress := func(e banger.Event) { events.send(line{Event: &e}) }
		result, err := run(banger.WithOperation(r.Context(), op), r.PathValue("ref"), opts, progress)
		log := s.log.With("op", op, noun, ref, "operation", verb, "took", time.Since(began).String())
		if err != nil {
			log.Warn("failed", "err", err, "kind", kindOf(err))
		} else {
			log.Info("done")
		}
		events.end(result, err, op)
	}
}

// newOp is the id of an operation: one in a log that is kept for a while.
func newOp() string {
	id := make([]byte, 4)
	rand.Read(id)
	return hex.EncodeToString(id)
}

// decode reads the options of a request. Unknown fields are those of a newer
// client and ignored. It reads the body to its end: only then does net/http
// notice that the client goes away.
func decode[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	var opts T
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil && len(body) > 0 {
		err = json.Unmarshal(body, &opts)
	}
	if err != nil {
		return opts, &banger.Error{Kind: banger.Invalid, What: "read the request", Why: err, Fix: "send a JSON object of at most 1 MiB, or nothing"}
	}
	return opts, nil
}

// events writes an event stream. It begins with the first event: an operation
// that fails before answers with a plain error and its status.
type events struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	begun bool
	ended bool
}

func (e *events) send(l line) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	if !e.begun {
		e.w.Header().Set("Content-Type", eventStream)
		e.begun = true
	}
	// A client that is gone cancels the request's context; nothing to do here.
	json.NewEncoder(e.w).Encode(l)
	http.NewResponseController(e.w).Flush()
}

func (e *events) end(result any, err error, op string) {
	data, failed := json.Marshal(result)
	if err == nil && failed != nil {
		err = fmt.Errorf("encode result: %w", failed)
	}
	e.mu.Lock()
	begun := e.begun
	e.mu.Unlock()
	switch {
	case err == nil:
		e.send(line{Result: data})
	case begun:
		e.send(line{Error: toWire(withOp(err, op))})
	default:
		refuse(e.w, err)
	}
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

// withOp is err with an operation's id and the words that it had.
func withOp(err error, op string) error {
	e := banger.Error{Why: err}
	if is, ok := err.(*banger.Error); ok {
		e = *is
	}
	e.Op = op
	return &e
}

// errCut is an event stream without an end.
var errCut = errors.New("the daemon went away before it answered")
