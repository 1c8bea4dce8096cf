package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/guest/wire"
)

// sshServer returns what serves the sessions of a guest by itself, after saying lines
// before its version.
func sshServer(t *testing.T, first string, session func(ssh.Channel, <-chan *ssh.Request)) func([]byte, string) func(net.Conn) {
	return func(private []byte, _ string) func(net.Conn) {
		host, err := ssh.ParsePrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
		config.AddHostKey(host)
		return func(conn net.Conn) {
			defer conn.Close()
			io.WriteString(conn, first)
			_, channels, requests, err := ssh.NewServerConn(conn, config)
			if err != nil {
				return
			}
			go ssh.DiscardRequests(requests)
			for offer := range channels {
				if session == nil {
					return // the connection ends instead
				}
				channel, requests, err := offer.Accept()
				if err != nil {
					return
				}
				session(channel, requests)
			}
		}
	}
}

// exec runs a program in the guest.
func (g *dialed) exec(program wire.Exec, s Session) (int, error) {
	g.t.Helper()
	conn, err := g.open(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	if s.Stdout == nil {
		s.Stdout, s.Stderr = io.Discard, io.Discard
	}
	return Exec(g.t.Context(), conn, g.vm(), program, s)
}

// takeExec answers the requests for a program, and returns it.
func takeExec(requests <-chan *ssh.Request) (program wire.Exec, parts int) {
	var payload []byte
	for r := range requests {
		payload = append(payload, r.Payload...)
		parts++
		r.Reply(true, nil)
		if r.Type == wire.ExecRequest {
			break
		}
	}
	json.Unmarshal(payload, &program)
	return program, parts
}

func exitWith(channel ssh.Channel, status uint32) {
	channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}

// TestExecIsSentInParts: no packet of SSH holds a large program. What no kernel takes is
// not sent.
func TestExecIsSentInParts(t *testing.T) {
	var got wire.Exec
	var parts int
	g := dialGuest(t, sshServer(t, "", func(channel ssh.Channel, requests <-chan *ssh.Request) {
		got, parts = takeExec(requests)
		exitWith(channel, 0)
		channel.Close()
	}))
	for _, c := range []struct{ size, parts int }{{10, 1}, {90_000, 1}, {130_000, 2}, {3 << 20, 33}} {
		want := wire.Exec{Argv: [][]byte{[]byte("echo"), bytes.Repeat([]byte("\xff'"), c.size/2)}}
		if _, err := g.exec(want, Session{}); err != nil {
			t.Fatal(err)
		}
		if parts != c.parts || len(got.Argv) != 2 || !bytes.Equal(got.Argv[1], want.Argv[1]) {
			t.Errorf("%d bytes came in %d parts", c.size, parts)
		}
	}
	_, err := g.exec(wire.Exec{Argv: [][]byte{make([]byte, wire.MaxExec)}}, Session{})
	if !errors.Is(err, syscall.E2BIG) || banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "" {
		t.Errorf("too much: %v", err)
	}
}

// TestLargeExecOfAnOlderAgent names the limit.
func TestLargeExecOfAnOlderAgent(t *testing.T) {
	g := dialGuest(t, sshServer(t, "", func(channel ssh.Channel, requests <-chan *ssh.Request) {
		for r := range requests {
			r.Reply(r.Type == wire.ExecRequest, nil)
		}
	}))
	_, err := g.exec(wire.Exec{Argv: [][]byte{make([]byte, wire.MaxExecPart)}}, Session{})
	if err == nil || !strings.Contains(err.Error(), "takes at most 98304 bytes of arguments") || banger.FixOf(err) != "banger vm restart otter" {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
}

// TestLostConnections are named as such, whatever package ssh says of them.
func TestLostConnections(t *testing.T) {
	for name, session := range map[string]func(ssh.Channel, <-chan *ssh.Request){
		"before the session": nil,
		"before the program": func(channel ssh.Channel, _ <-chan *ssh.Request) { channel.Close() },
	} {
		g := dialGuest(t, sshServer(t, "", session))
		_, err := g.exec(wire.Exec{Argv: [][]byte{[]byte("true")}}, Session{})
		if !errors.Is(err, errLost) || strings.Contains(fmt.Sprint(err), "nil") || strings.Contains(fmt.Sprint(err), "EOF") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWaitingIsTold: a busy guest says how many log in first.
func TestWaitingIsTold(t *testing.T) {
	first := wire.LoginWaits + "17\r\nanything else\r\n" + wire.LoginWaits + "x\r\n" + wire.LoginWaits + "-1\r\n" + strings.Repeat("long", 50) + "\r\n" + wire.LoginWaits + "0\r\n"
	g := dialGuest(t, sshServer(t, first, func(channel ssh.Channel, requests <-chan *ssh.Request) {
		takeExec(requests)
		fmt.Fprintf(channel, "%s5\r\n", wire.LoginWaits) // a program may say what it likes
		exitWith(channel, 0)
		channel.Close()
	}))
	var told []int
	var out bytes.Buffer
	status, err := g.exec(wire.Exec{Argv: [][]byte{[]byte("true")}}, Session{Stdout: &out, Stderr: io.Discard, Waiting: func(n int) { told = append(told, n) }})
	if err != nil || status != 0 || fmt.Sprint(told) != "[17 0]" || out.String() != wire.LoginWaits+"5\r\n" {
		t.Errorf("status %d, %v; was told %v, printed %q", status, err, told, out.String())
	}
}

// TestSlowGuestsAreWaitedFor as long as they say something.
func TestSlowGuestsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, guest := net.Pipe()
		p := &patient{Conn: conn}
		go func() {
			for range 20 {
				time.Sleep(silence / 2)
				guest.Write([]byte(wire.LoginWaits + "3\r\n"))
			}
		}()
		all := make([]byte, 20*(len(wire.LoginWaits)+3))
		if _, err := io.ReadFull(p, all); err != nil {
			t.Errorf("a slow guest: %v", err)
		}
		_, err := p.Read(all)
		if err = p.why(t.Context(), err); err != errSilent {
			t.Errorf("a silent guest: %v", err)
		}
		p.over()
		go func() {
			time.Sleep(10 * silence)
			guest.Write([]byte{1})
		}()
		if _, err := p.Read(all); err != nil {
			t.Errorf("after the login: %v", err)
		}
		conn.Close()
		guest.Close()
	})
}

// TestSignalAfterTheEnd: once it is known that the program has ended, the first signal ends
// exec, though something holds the output.
func TestSignalAfterTheEnd(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		signals := make(chan os.Signal, 1)
		g := dialGuest(t, sshServer(t, "", func(channel ssh.Channel, requests <-chan *ssh.Request) {
			takeExec(requests)
			exitWith(channel, 0)
			io.WriteString(channel, "output")
			for range requests { // a signal that came before the end was known
				io.WriteString(channel, "output")
			}
		}))
		out := writerFunc(func(b []byte) (int, error) { signals <- signal; return len(b), nil })
		status, err := g.exec(wire.Exec{Argv: [][]byte{[]byte("true")}}, Session{Stdout: out, Stderr: io.Discard, Signals: signals})
		if err != nil || status != 128+int(signal) {
			t.Errorf("status %d, %v", status, err)
		}
	}
}

// TestOutputThatNobodyReads does not keep exec, either.
func TestOutputThatNobodyReads(t *testing.T) {
	signals, over := make(chan os.Signal), make(chan struct{})
	g := dialGuest(t, sshServer(t, "", func(channel ssh.Channel, requests <-chan *ssh.Request) {
		takeExec(requests)
		exitWith(channel, 0)
		io.WriteString(channel, "output")
		channel.Close()
	}))
	stuck := make(chan struct{})
	out := writerFunc(func([]byte) (int, error) { close(stuck); <-over; return 0, io.ErrClosedPipe })
	go func() {
		<-stuck
		for { // those that come before the end is known go to the program
			select {
			case signals <- syscall.SIGTERM:
			case <-over:
				return
			}
		}
	}()
	status, err := g.exec(wire.Exec{Argv: [][]byte{[]byte("true")}}, Session{Stdout: out, Stderr: io.Discard, Signals: signals})
	close(over)
	if err != nil || status != 128+15 {
		t.Errorf("status %d, %v", status, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestDeathBySignal: any number arrives, as from an older agent.
func TestDeathBySignal(t *testing.T) {
	for name, want := range map[string]int{"KILL": 137, "TERM": 143, "7@banger": 135, "34@banger": 162, "64@banger": 192, "31@banger": 159, "": 128, "x@banger": 128, "900@banger": 128} {
		for _, core := range []bool{false, true} {
			payload := ssh.Marshal(struct {
				Signal   string
				Core     bool
				Message  string
				Language string
			}{name, core, "", ""})
			if got, ok := exitOf(&ssh.Request{Type: "exit-signal", Payload: payload}); !ok || got != want {
				t.Errorf("%q is %d, %v; want %d", name, got, ok, want)
			}
		}
	}
	for n := 1; n <= 64; n++ {
		if got := signalOf(signalName(syscall.Signal(n))); int(got) != n {
			t.Errorf("signal %d is sent as %d", n, got)
		}
	}
}

// TestLoginIsCancelled at once, whatever the guest does.
func TestLoginIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	g := dialGuest(t, func([]byte, string) func(net.Conn) {
		return func(conn net.Conn) {
			conn.Read(make([]byte, 1))
			close(asked)
			io.Copy(io.Discard, conn)
		}
	})
	conn, err := g.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		cancel()
	}()
	if _, err := Exec(ctx, conn, g.vm(), wire.Exec{Argv: [][]byte{[]byte("true")}}, Session{Stdout: io.Discard, Stderr: io.Discard}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
