package sshd

import (
	"bufio"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"banger/internal/guest/wire"
)

// TestLine: turns come in order, and who gives up holds nobody up.
func TestLine(t *testing.T) {
	var l line
	closed := func(turn chan struct{}) bool {
		select {
		case <-turn:
			return true
		default:
			return false
		}
	}
	var places []chan struct{}
	for range atOnce() + 3 {
		places = append(places, l.join())
	}
	work, wait := places[:atOnce()], places[atOnce():]
	for i, place := range places {
		if closed(place) != (i < atOnce()) {
			t.Errorf("place %d: its turn is %v", i, closed(place))
		}
	}
	if l.before(wait[0]) != 0 || l.before(wait[2]) != 2 || l.before(work[0]) != 0 {
		t.Errorf("%d and %d are before the first and the last", l.before(wait[0]), l.before(wait[2]))
	}
	l.leave(wait[1]) // it gives up
	l.leave(work[0])
	if !closed(wait[0]) || closed(wait[2]) || l.before(wait[2]) != 0 {
		t.Error("the turn went to another place")
	}
	for _, place := range append(work[1:], wait[0], wait[2]) {
		l.leave(place)
	}
	if !closed(wait[2]) || l.working != 0 || len(l.waiting) != 0 {
		t.Errorf("%d work, %d wait", l.working, len(l.waiting))
	}
}

// TestManyLoginsAtOnce all come through.
func TestManyLoginsAtOnce(t *testing.T) {
	g := newSSHGuest(t)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			client, err := g.dial(t, g.key)
			if err != nil {
				t.Error(err)
				return
			}
			client.Close()
		})
	}
	all.Wait()
	if l := &g.server.logins; l.working != 0 || len(l.waiting) != 0 {
		t.Errorf("%d work, %d wait", l.working, len(l.waiting))
	}
}

// TestWhoWaitsIsTold, again and again. A client that says nothing does not keep its turn.
func TestWhoWaitsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Server{host: newSigner(t), keys: func() []byte { return nil }, etc: t.TempDir()}
		serve := func() (client net.Conn, lines *bufio.Reader) {
			client, conn := net.Pipe()
			go g.Serve(conn)
			return client, bufio.NewReader(client)
		}
		var silent []net.Conn
		for range atOnce() {
			client, lines := serve()
			if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "SSH-2.0-banger") {
				t.Fatalf("got %q, %v", line, err)
			}
			silent = append(silent, client)
		}
		client, lines := serve()
		begun, told := time.Now(), 0
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line != wire.LoginWaits+"0\r\n" {
				if !strings.HasPrefix(line, "SSH-2.0-banger") || told != int(idleTime/saysWaiting) {
					t.Errorf("after %d lines: %q", told, line)
				}
				break
			}
			told++
		}
		if took := time.Since(begun); took > 2*idleTime {
			t.Errorf("it took %v", took)
		}
		// The silent ones are turned out at last.
		for _, conn := range append(silent, client) {
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a silent client may stay")
			}
			conn.Close()
		}
		if took := time.Since(begun); took < loginSilence-time.Minute || took > 2*loginSilence {
			t.Errorf("they were turned out after %v", took)
		}
	})
}

// TestSlowClientsLogIn: what counts is silence, not the time in all.
func TestSlowClientsLogIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := net.Pipe()
		l := &login{Conn: conn, idle: func() {}}
		go func() {
			for range 10 {
				time.Sleep(loginSilence / 2)
				client.Write([]byte{1})
			}
		}()
		for range 10 {
			if _, err := l.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		l.over()
		go func() {
			time.Sleep(10 * loginSilence)
			client.Write([]byte{1})
		}()
		if _, err := l.Read(make([]byte, 1)); err != nil {
			t.Errorf("after the login: %v", err)
		}
		l = &login{Conn: conn, idle: func() {}}
		if _, err := l.Read(make([]byte, 1)); !os.IsTimeout(err) {
			t.Errorf("a silent client: %v", err)
		}
		client.Close()
		conn.Close()
	})
}
