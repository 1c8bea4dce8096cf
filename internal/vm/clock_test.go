package vm

import (
	"bufio"
	"encoding/json"
	"net"
	"testing"
	"time"

	"banger/internal/guest"
	"banger/internal/guest/wire"
)

func TestHostClockWaits(t *testing.T) {
	clock, err := openHostClock()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := clock.wait(time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error)
	go func() { ended <- clock.wait(time.Hour) }()
	clock.Close()
	if err := <-ended; err == nil {
		t.Error("the wait ended as if the clock had been set")
	}
}

// clockGuest is a guest that tells when it was told the time.
type clockGuest struct {
	in  *bufio.Reader
	out *json.Encoder
}

func newClockGuest(t *testing.T) (clockGuest, *guest.Control) {
	t.Helper()
	host, conn := net.Pipe()
	g := clockGuest{bufio.NewReaderSize(conn, wire.MaxLine), json.NewEncoder(conn)}
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		g.out.Encode(wire.Message{Hello: &wire.Hello{Version: wire.Version, Token: "t", Nonce: "n"}})
		wire.ReadMessage(g.in)
	}()
	control, err := guest.OpenControl(t.Context(), host, guest.Identity{Token: "t", Nonce: "n"}, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-greeted
	t.Cleanup(func() { conn.Close(); <-control.Done() })
	return g, control
}

// told waits for a request and returns what time it brings.
func (g clockGuest) told(t *testing.T) (id uint64, at time.Time) {
	t.Helper()
	m, err := wire.ReadMessage(g.in)
	if err != nil || m.Request == nil || m.Request.Method != wire.MethodClock {
		t.Fatalf("got %+v, %v", m, err)
	}
	var p wire.ClockParams
	if err := json.Unmarshal(m.Request.Params, &p); err != nil {
		t.Fatal(err)
	}
	return m.Request.ID, time.Unix(0, p.UnixNano)
}

func (g clockGuest) reply(id uint64) { g.out.Encode(wire.Message{Reply: &wire.Reply{ID: id}}) }

// A guest that did not run when it was told the time hears it again.
func TestAPausedGuestIsToldTheTimeAgain(t *testing.T) {
	g, control := newClockGuest(t)
	done := make(chan error)
	go func() { done <- setTime(t.Context(), control) }()
	id, first := g.told(t)
	<-time.After(promptly) // the pause
	g.reply(id)
	id, second := g.told(t)
	g.reply(id)
	if err := <-done; err != nil || second.Sub(first) < promptly {
		t.Errorf("%v; told %v, and then %v", err, first, second)
	}
}

// Whoever asks while the guest is being told has it told once more.
func TestTimeIsToldWhenAsked(t *testing.T) {
	g, control := newClockGuest(t)
	r := bareRun(t, silent{}, boot{})
	r.change(func() { r.control = control })
	go r.keepTime(t.Context())
	r.askTime()
	id, first := g.told(t)
	r.askTime()
	r.askTime()
	g.reply(id)
	id, second := g.told(t)
	g.reply(id)
	if !second.After(first) {
		t.Errorf("told %v, and then %v", first, second)
	}
}
