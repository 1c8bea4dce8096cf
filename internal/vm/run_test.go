package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"testing"

	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

// hasty is a machine whose agent tells that the init is up as soon as it may,
// and then ends.
type hasty struct {
	vmm.Machine
	boot boot
}

func (m hasty) Ended() <-chan struct{} {
	ended := make(chan struct{})
	close(ended)
	return ended
}

func (m hasty) Dial(context.Context, int) (net.Conn, error) {
	host, agent := net.Pipe()
	go func() {
		defer agent.Close()
		out, in := json.NewEncoder(agent), bufio.NewReader(agent)
		out.Encode(wire.Message{Hello: &wire.Hello{Version: wire.Version, Token: m.boot.Token, Nonce: m.boot.Nonce, Init: wire.InitStarting}})
		wire.ReadMessage(in)
		out.Encode(wire.Message{Event: &wire.Event{Kind: wire.EventInit, Init: wire.InitUp}})
	}()
	return host, nil
}

func TestEventsAreNewerThanTheHello(t *testing.T) {
	for range 300 {
		b := newBoot()
		r := newRun(hasty{boot: b}, b)
		control, err := r.connect(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		<-control.Done()
		if r.hello.Init != wire.InitUp {
			t.Fatalf("the init is %s after it was told to be up", r.hello.Init)
		}
	}
}

func TestByeNeedsTheNonce(t *testing.T) {
	b := newBoot()
	r := newRun(hasty{boot: b}, b)
	for _, nonce := range []string{"", newBoot().Nonce} {
		if r.heard(wire.Event{Kind: wire.EventBye, Verb: wire.Reboot, Nonce: nonce}); r.bye != "" {
			t.Errorf("with nonce %q: %s", nonce, r.bye)
		}
	}
	if r.heard(wire.Event{Kind: wire.EventBye, Verb: wire.Reboot, Nonce: b.Nonce}); r.bye != wire.Reboot {
		t.Errorf("with the boot's: %q", r.bye)
	}
}
