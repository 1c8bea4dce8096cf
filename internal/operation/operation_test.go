package operation

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"banger"
)

// host keeps what its operations report.
type host struct {
	Runner
	log    bytes.Buffer
	events []banger.Operation
}

func newHost() *host {
	h := &host{}
	h.Log = slog.New(slog.NewJSONHandler(&h.log, nil))
	h.Publish = func(o banger.Operation) { h.events = append(h.events, o) }
	return h
}

func (h *host) running() (n int) {
	h.Running(func(all []banger.Operation) { n = len(all) })
	return n
}

func TestStepsReachClientLogAndEvents(t *testing.T) {
	h := newHost()
	var client []banger.Step
	err := func() (err error) {
		o := h.Begin("vm", banger.Start, "otter", "0a", func(s banger.Step) { client = append(client, s) })
		defer o.End(t.Context(), &err)
		o.Note("lock", "")
		o.Note("lock", "it waits")
		return o.Run(t.Context(),
			Step{"lock", func(context.Context) error { return nil }},
			Step{"boot", func(context.Context) error {
				if n := h.running(); n != 1 {
					t.Errorf("%d operations are at work", n)
				}
				return nil
			}})
	}()
	if err != nil || h.running() != 0 {
		t.Fatal(err, h.running())
	}
	var told []string
	for _, s := range client {
		told = append(told, s.VM+" "+s.Step+s.Note)
		if s.Done {
			told[len(told)-1] += " done"
		}
	}
	if want := []string{"otter lockit waits", "otter lock", "otter lock done", "otter boot", "otter boot done"}; !slices.Equal(told, want) {
		t.Errorf("the client heard %q", told)
	}
	if len(h.events) != len(client)+1 || !h.events[len(client)].Ended || h.events[len(client)].Failure != nil || h.events[0].ID == "" {
		t.Errorf("events: %+v", h.events)
	}
	if n := strings.Count(h.log.String(), `"op":"`+h.events[0].ID+`"`); n != strings.Count(h.log.String(), "\n") || n == 0 {
		t.Errorf("the log does not name the operation everywhere:\n%s", h.log.String())
	}
}

// TestErrorsNameTheirOperation: an error has the operation's id if a step has begun.
// Without a step, the log says no more than the error.
func TestErrorsNameTheirOperation(t *testing.T) {
	for _, failed := range []error{&banger.Error{Kind: banger.Conflict, What: "lock", Why: io.EOF, Fix: "wait"}, io.EOF, context.Canceled} {
		for _, stepped := range []bool{false, true} {
			h := newHost()
			undone := false
			err := func() (err error) {
				o := h.Begin("image", "import", "box", "", nil)
				defer o.End(t.Context(), &err)
				if !stepped {
					return failed
				}
				return o.Step(t.Context(), "write", func(context.Context) error {
					o.Push("write", func(context.Context) error { undone = true; return nil })
					return failed
				})
			}()
			if !errors.Is(err, failed) || banger.KindOf(err) != banger.KindOf(failed) || banger.FixOf(err) != banger.FixOf(failed) || !strings.HasPrefix(err.Error(), `import image "box": `) {
				t.Errorf("%v", err)
			}
			if (banger.OpOf(err) != "") != stepped || undone != stepped {
				t.Errorf("stepped %v: operation %q, undone %v", stepped, banger.OpOf(err), undone)
			}
			if !stepped {
				continue
			}
			if last := h.events[len(h.events)-1]; !last.Ended || last.Failure == nil || last.Failure.Kind != banger.KindOf(failed) || last.ID != banger.OpOf(err) {
				t.Errorf("%+v", last)
			}
		}
	}
}

func TestACancelledStepDoesNotBegin(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := newHost().Begin("vm", banger.Stop, "otter", "", nil)
	err := o.Step(ctx, "sync", func(context.Context) error { t.Error("it began"); return nil })
	if banger.KindOf(err) != banger.Canceled {
		t.Error(err)
	}
}
