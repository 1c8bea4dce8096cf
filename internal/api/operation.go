package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	"banger"
)

// answer returns a handler that answers with the result of get.
func answer[T any](get func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := get(r.Context())
		reply(w, result, err)
	}
}

// answerRef is answer for a method that takes a ref.
func answerRef[T any](get func(context.Context, string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := get(r.Context(), r.PathValue("ref"))
		reply(w, result, err)
	}
}

// list is answer for a method that lists things. An empty list is [], not null.
func list[T any](get func(context.Context) ([]T, error)) http.HandlerFunc {
	return answer(func(ctx context.Context) ([]T, error) {
		all, err := get(ctx)
		return append([]T{}, all...), err
	})
}

func reply(w http.ResponseWriter, result any, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(result)
}

// refuse answers with err and the HTTP status of its kind.
func refuse(w http.ResponseWriter, err error) {
	e := toWire(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statuses[e.Kind])
	json.NewEncoder(w).Encode(line{Error: e})
}

// operation returns a handler that answers with a stream of the operation's
// steps, and then its result. The options are the request's body.
func operation[T, R any](run func(ctx context.Context, ref string, opts T, progress banger.Progress) (R, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		opts, err := decode[T](w, r)
		if err != nil {
			refuse(w, err)
			return
		}
		steps := &steps{w: w}
		result, err := run(r.Context(), r.PathValue("ref"), opts, steps.send)
		steps.end(result, err)
	}
}

type progress = banger.Progress

// withoutRef adapts a method that creates something, and so takes no ref.
func withoutRef[T, R any](f func(context.Context, T, progress) (R, error)) func(context.Context, string, T, progress) (R, error) {
	return func(ctx context.Context, _ string, spec T, p progress) (R, error) { return f(ctx, spec, p) }
}

// withoutResult adapts a method that returns only an error.
func withoutResult[T any](f func(context.Context, string, T, progress) error) func(context.Context, string, T, progress) (struct{}, error) {
	return func(ctx context.Context, ref string, opts T, p progress) (struct{}, error) {
		return struct{}{}, f(ctx, ref, opts, p)
	}
}

// withoutOptions adapts a method that takes no options and returns only an error.
func withoutOptions(f func(context.Context, string, progress) error) func(context.Context, string, struct{}, progress) (struct{}, error) {
	return withoutResult(func(ctx context.Context, ref string, _ struct{}, p progress) error { return f(ctx, ref, p) })
}

// decode reads the options of a request. It ignores unknown fields, which a newer
// client may send. It reads the body to its end: only then does net/http notice
// that the client disconnects.
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

// steps writes the stream of an operation. The stream begins with the first step:
// an operation that fails before it answers with a plain error and its status.
type steps struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	begun bool
	ended bool
}

func (e *steps) send(step banger.Step) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		e.write(line{Event: &step})
	}
}

func (e *steps) end(result any, err error) {
	data, failed := json.Marshal(result)
	if err == nil && failed != nil {
		err = fmt.Errorf("encode result: %w", failed)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	switch {
	case err == nil:
		e.write(line{Result: data})
	case e.begun:
		e.write(line{Error: toWire(err)})
	default:
		refuse(e.w, err)
	}
}

func (e *steps) write(l line) {
	if !e.begun {
		e.w.Header().Set("Content-Type", eventStream)
		e.begun = true
	}
	// A write error needs no action: a client that disconnects cancels the request.
	json.NewEncoder(e.w).Encode(l)
	http.NewResponseController(e.w).Flush()
}
