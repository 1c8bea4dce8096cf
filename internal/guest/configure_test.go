package guest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"banger/internal/guest/wire"
)

// opened returns a control connection to a guest with these features.
func opened(t *testing.T, features string, onEvent func(wire.Event)) (*Control, fake) {
	t.Helper()
	conn, guest := agent(t, strings.Replace(goodHello, `"later":"field"`, features, 1))
	greeted := make(chan error, 1)
	go func() { _, err := wire.ReadMessage(guest.in); greeted <- err }()
	c, err := OpenControl(t.Context(), conn, identity, "test", onEvent)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-greeted; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-c.Done() })
	return c, guest
}

func TestAnOlderAgentIsConfiguredAtItsNextStart(t *testing.T) {
	c, _ := opened(t, `"features":["stats","disks"]`, nil)
	if err := c.Configure(t.Context(), wire.ConfigureParams{Name: "beaver"}); !errors.Is(err, ErrNextStart) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Ports(t.Context()); !errors.Is(err, ErrNextStart) {
		t.Errorf("got %v", err)
	}
}

func TestConfigure(t *testing.T) {
	c, guest := opened(t, `"features":["configure"]`, nil)
	if err := c.Configure(t.Context(), wire.ConfigureParams{Name: "two words"}); err == nil || errors.Is(err, ErrNextStart) {
		t.Errorf("a wrong name: %v", err)
	}
	for _, said := range []string{"", "set host name: not permitted"} {
		answer := make(chan error, 1)
		go func() { answer <- c.Configure(t.Context(), wire.ConfigureParams{Name: "beaver"}) }()
		m, err := wire.ReadMessage(guest.in)
		if err != nil || m.Request.Method != wire.MethodConfigure || string(m.Request.Params) != `{"name":"beaver"}` {
			t.Fatalf("asked %+v, %v", m.Request, err)
		}
		guest.say(fmt.Sprintf(`{"reply":{"id":%d,"error":"%s"}}`, m.Request.ID, said))
		if err := <-answer; (err == nil) != (said == "") || err != nil && !strings.Contains(err.Error(), said) {
			t.Errorf("it said %q: %v", said, err)
		}
	}
}

func TestPorts(t *testing.T) {
	events := make(chan wire.Event, 1)
	c, guest := opened(t, `"features":["ports"],"network_why":"`+rude+`","ports":{"listeners":[{"port":22,"addr":"0.0.0.0"}]}`, func(e wire.Event) { events <- e })
	if h := c.Hello(); h.NetworkWhy != harmlessRude || h.Ports == nil || len(h.Ports.Listeners) != 1 {
		t.Fatalf("hello %+v", h)
	}
	guest.say(`{"event":{"kind":"ports","ports":{"listeners":[{"port":80,"addr":"::","dual":true,"program":"` + rude + `"}],"unwatched":"` + rude + `"}}}`)
	e := <-events
	if e.Ports == nil || len(e.Ports.Listeners) != 1 || e.Ports.Listeners[0].Program != Printable("x\x1b]52;c;eA==\a\nf") || e.Ports.Unwatched != harmlessRude {
		t.Errorf("event %+v", e.Ports)
	}
	if now := c.Hello().Ports; now.Listeners[0].Port != 80 {
		t.Errorf("afterwards %+v", now)
	}
	answer := make(chan wire.Ports, 1)
	go func() {
		p, err := c.Ports(t.Context())
		if err != nil {
			t.Error(err)
		}
		answer <- p
	}()
	m, err := wire.ReadMessage(guest.in)
	if err != nil {
		t.Fatal(err)
	}
	guest.say(fmt.Sprintf(`{"reply":{"id":%d,"result":{"listeners":[{"port":0,"addr":"::"},{"port":1},{"port":2,"addr":"fe80::1%%eth0"},{"port":3,"addr":"::ffff:1.2.3.4"},`+
		`{"port":4,"addr":"1.2.3.4","dual":true}]}}}`, m.Request.ID))
	if p := <-answer; len(p.Listeners) != 1 || p.Listeners[0].Port != 4 || p.Listeners[0].Dual {
		t.Errorf("got %+v", p)
	}
	many := wire.Ports{Listeners: make([]wire.Listener, 3*wire.MaxListeners)}
	for i := range many.Listeners {
		many.Listeners[i] = e.Ports.Listeners[0]
	}
	if p := ReadPorts(&many); len(p.Listeners) != wire.MaxListeners || !p.More {
		t.Errorf("%d of many, more: %v", len(p.Listeners), p.More)
	}
}
