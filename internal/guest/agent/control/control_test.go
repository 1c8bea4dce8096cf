package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"banger/internal/guest/wire"
)

// controlHost is the host's end of a control connection.
type controlHost struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialControl(t *testing.T, c *Server, greeted func()) *controlHost {
	t.Helper()
	host, guest := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); c.Serve(guest, greeted) }()
	t.Cleanup(func() { host.Close(); <-done })
	host.SetDeadline(time.Now().Add(10 * time.Second))
	return &controlHost{t, host, bufio.NewReaderSize(host, wire.MaxLine)}
}

func (h *controlHost) say(m wire.Message) {
	h.t.Helper()
	line, _ := json.Marshal(m)
	if _, err := h.conn.Write(append(line, '\n')); err != nil {
		h.t.Fatal(err)
	}
}

func (h *controlHost) hear() wire.Message {
	h.t.Helper()
	m, err := wire.ReadMessage(h.in)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

// greet exchanges the hellos.
func (h *controlHost) greet() wire.Hello {
	h.t.Helper()
	m := h.hear()
	if m.Hello == nil {
		h.t.Fatalf("got %+v before a hello", m)
	}
	h.say(wire.Message{Hello: &wire.Hello{Version: wire.Version, Program: "test"}})
	return *m.Hello
}

func newTestControl() *Server {
	return New(
		func() wire.Hello { return wire.Hello{Version: wire.Version, Token: "secret", Init: wire.InitUp} },
		func(_ context.Context, r wire.Request) (any, error) {
			switch r.Method {
			case wire.MethodInfo:
				return wire.Info{BootID: "boot"}, nil
			case wire.MethodPing:
				return nil, nil
			}
			return nil, errors.New("unknown method")
		})
}

func TestControlAnswers(t *testing.T) {
	h := dialControl(t, newTestControl(), nil)
	if hello := h.greet(); hello.Token != "secret" || hello.Init != wire.InitUp {
		t.Errorf("hello %+v", hello)
	}
	for i, c := range []struct{ method, result, err string }{
		{wire.MethodPing, "", ""},
		{wire.MethodInfo, `{"boot_id":"boot","uptime_ms":0,"init":""}`, ""},
		{"fly", "", "unknown method"},
	} {
		h.say(wire.Message{Request: &wire.Request{ID: uint64(i), Method: c.method}})
		r := h.hear().Reply
		if r == nil || r.ID != uint64(i) || string(r.Result) != c.result || r.Error != c.err {
			t.Errorf("%s: got %+v", c.method, r)
		}
	}
}

func TestControlEventsReachEverybodyInOrder(t *testing.T) {
	c := newTestControl()
	hosts := []*controlHost{dialControl(t, c, nil), dialControl(t, c, nil)}
	for _, h := range hosts {
		h.greet()
	}
	c.Broadcast(wire.Event{Kind: wire.EventInit, Init: wire.InitStopping})
	said := make(chan struct{})
	go func() {
		c.Bye(wire.Event{Kind: wire.EventBye, Verb: wire.Reboot, Nonce: "n"}, 10*time.Second)
		close(said)
	}()
	for _, h := range hosts {
		if e := h.hear().Event; e == nil || e.Init != wire.InitStopping {
			t.Errorf("first event %+v", e)
		}
		if e := h.hear().Event; e == nil || e.Kind != wire.EventBye || e.Verb != wire.Reboot || e.Nonce != "n" {
			t.Errorf("second event %+v", e)
		}
	}
	<-said
}

func TestControlByeDoesNotWaitForTheDeaf(t *testing.T) {
	c := newTestControl()
	dialControl(t, c, nil).greet() // and never reads again
	c.Bye(wire.Event{Kind: wire.EventBye}, time.Millisecond)
}

func TestControlEndsOnNonsense(t *testing.T) {
	for name, line := range map[string]string{
		"no hello":  `{"request":{"id":1,"method":"ping"}}` + "\n",
		"not JSON":  "hello\n",
		"too long":  `{"hello":{"program":"` + strings.Repeat("x", wire.MaxLine) + `"}}` + "\n",
		"just ends": "",
	} {
		t.Run(name, func(t *testing.T) {
			greeted := make(chan struct{})
			h := dialControl(t, newTestControl(), func() { close(greeted) })
			h.hear()
			if line == "" {
				h.conn.Close()
			} else {
				h.conn.Write([]byte(line)) // fails when the guest hangs up before the end
				if m, err := wire.ReadMessage(h.in); err == nil {
					t.Errorf("got %+v", m)
				}
			}
			<-greeted
		})
	}
}
