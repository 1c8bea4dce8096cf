package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

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

// operation serves a long request, whose options are the body's JSON: it
// answers with a stream of the operation's steps and its result.
func operation[T, R any](run func(ctx context.Context, ref string, opts T, progress banger.Progress) (R, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		opts, err := decode[T](w, r)
		if err != nil {
			refuse(w, err)
			return
		}
		steps := &steps{w: w}
		result, err := run(r.Context(), r.PathValue("ref"), opts, func(s banger.Step) { steps.send(line{Event: &s}) })
		steps.end(result, err)
	}
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

// steps writes the stream of an operation. It begins with the first step: an
// operation that fails before that answers with a plain error and its status.
type steps struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	begun bool
	ended bool
}

func (e *steps) send(l line) {
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

func (e *steps) end(result any, err error) {
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
		e.send(line{Error: toWire(err)})
	default:
		refuse(e.w, err)
	}
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
}

// errCut is an event stream without an end.
var errCut = errors.New("the daemon went away before it answered")
