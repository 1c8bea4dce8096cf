package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/event"
	"banger/internal/guest/wire"
	"banger/internal/store"
	"banger/internal/vmm"
)

// bareRun is the run of a VM that is booting, and of which there is nothing else.
func bareRun(t *testing.T, machine vmm.Machine, b boot) *run {
	t.Helper()
	v := &VMs{Env: Env{Events: event.NewHub(), Log: slog.New(slog.DiscardHandler), Network: NoNetwork{errors.New("not in tests")}, Program: "test", Dirs: config.Dirs{State: t.TempDir()}}, owners: map[banger.VMID]*owner{}}
	v.forwards = v.newForwards()
	t.Cleanup(v.forwards.Close)
	o := v.own(store.VM{ID: "0a0a0a0a0a0a"}, banger.Starting)
	o.run = newRun(o, machine, b)
	return o.run
}

// silent is a machine that runs and says nothing.
type silent struct{ vmm.Machine }

func (silent) Ended() <-chan struct{} { return nil }
func (silent) PID() int               { return os.Getpid() }

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

func (hasty) PID() int { return os.Getpid() }

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
		r := bareRun(t, hasty{boot: b}, b)
		control, err := r.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		<-control.Done()
		if r.hello.Init != wire.InitUp || r.o.state != banger.Running {
			t.Fatalf("the init is %s and the VM %s after it was told to be up", r.hello.Init, r.o.state)
		}
	}
}

func TestByeNeedsTheNonce(t *testing.T) {
	b := newBoot()
	r := bareRun(t, hasty{boot: b}, b)
	for _, nonce := range []string{"", newBoot().Nonce} {
		if r.heard(wire.Event{Kind: wire.EventBye, Verb: wire.Reboot, Nonce: nonce}); r.seen.bye != "" {
			t.Errorf("with nonce %q: %s", nonce, r.seen.bye)
		}
	}
	if r.heard(wire.Event{Kind: wire.EventBye, Verb: wire.Reboot, Nonce: b.Nonce}); r.seen.bye != wire.Reboot {
		t.Errorf("with the boot's: %q", r.seen.bye)
	}
}
