package sshd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/wire"
)

// behind leaves a program behind that has the output open. It writes when something is
// written to the fifo go, and tells by the fifo done whether it still could.
const behind = `mkfifo up go done; (trap '' HUP; echo up >up; read x <go; echo late && echo ok >done || echo failed >done) & read x <up; echo started; exit 3`

// wrote makes the program that was left behind write, and checks that it could.
func (g *sshGuest) wrote(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.home, "go"), []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if said, err := os.ReadFile(filepath.Join(g.home, "done")); err != nil || string(said) != "ok\n" {
		t.Errorf("the program in the background said %q, %v", said, err)
	}
}

// TestExecEndsWithItsProgram: with and without a terminal, whatever has its output open.
// That continues.
func TestExecEndsWithItsProgram(t *testing.T) {
	for _, term := range []string{"", "xterm"} {
		t.Run("terminal="+term, func(t *testing.T) {
			g := newSSHGuest(t)
			begun := time.Now()
			channel, requests := g.begin(t, wire.Exec{Argv: bytesOf("sh", "-c", behind)}, term)
			r := resultOf(channel, requests)
			if r.status != 3 || strings.TrimSpace(r.stdout) != "started" {
				t.Errorf("got %+v", r)
			}
			if took := time.Since(begun); took > 10*lateTime {
				t.Errorf("it took %v", took)
			}
			g.wrote(t)
		})
	}
}

// TestExecEndIsToldBeforeTheOutput: the client knows that only output is left.
func TestExecEndIsToldBeforeTheOutput(t *testing.T) {
	g := newSSHGuest(t)
	channel, requests := g.begin(t, wire.Exec{Argv: bytesOf("sh", "-c", "mkfifo f; head -c 60000 /dev/zero; (read x <f) & exit 7")}, "")
	var r result
	r.ended(<-requests)
	if r.status != 7 {
		t.Errorf("got %+v", r)
	}
	if rest := resultOf(channel, requests); len(rest.stdout) != 60000 {
		t.Errorf("%d bytes of output", len(rest.stdout))
	}
	if err := os.WriteFile(filepath.Join(g.home, "f"), nil, 0); err != nil {
		t.Error(err)
	}
}

// TestExecWaitsForTheRest: what a shell writes through another program arrives, though
// that ends later, and whoever fills the output does not keep the session.
func TestExecWaitsForTheRest(t *testing.T) {
	g := newSSHGuest(t)
	r := g.execDirect(t, wire.Exec{Argv: bytesOf("sh", "-c", "mkfifo f; (cat <f; echo tail) & exec >f; echo head")})
	if r.status != 0 || r.stdout != "head\ntail\n" {
		t.Errorf("got %+v", r)
	}
	r = g.execDirect(t, wire.Exec{Argv: bytesOf("sh", "-c", "yes & echo $! >pid; exit 4")})
	pid, err := os.ReadFile(filepath.Join(g.home, "pid"))
	var yes int
	if _, failed := fmt.Sscan(string(pid), &yes); err != nil || failed != nil || yes <= 1 {
		t.Fatalf("%q, %v", pid, err)
	}
	syscall.Kill(yes, syscall.SIGKILL)
	if r.status != 4 || len(r.stdout) < lateData {
		t.Errorf("status %d, %d bytes", r.status, len(r.stdout))
	}
}

// TestSSHLeavesTheBackground: without a terminal, as with OpenSSH, the session waits for
// its output, and when the client goes away, what the shell has left behind continues.
func TestSSHLeavesTheBackground(t *testing.T) {
	g := newSSHGuest(t)
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := channel.SendRequest("exec", true, ssh.Marshal(struct{ Text string }{behind})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	var r result
	r.ended(<-requests)
	line := make([]byte, len("started\n"))
	if _, err := io.ReadFull(channel, line); err != nil || r.status != 3 {
		t.Fatalf("got %q, %v, %+v", line, err, r)
	}
	client.Close()
	g.wrote(t)
}

// TestSignalsByNumber: any signal reaches the program, and tells of its death.
func TestSignalsByNumber(t *testing.T) {
	g := newSSHGuest(t)
	for _, c := range []struct {
		number int
		name   string
	}{{9, "KILL"}, {11, "SEGV"}, {7, "7@banger"}, {16, "16@banger"}, {31, "31@banger"}, {34, "34@banger"}, {50, "50@banger"}, {64, "64@banger"}} {
		if r := g.execDirect(t, wire.Exec{Argv: bytesOf("sh", "-c", fmt.Sprintf("kill -%d $$", c.number))}); r.signal != c.name || r.status != -1 {
			t.Errorf("a death by signal %d is told as %+v", c.number, r)
		}
		channel, requests := g.begin(t, wire.Exec{Argv: bytesOf("cat")}, "")
		if _, err := channel.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{c.name})); err != nil {
			t.Error(err)
		}
		if r := resultOf(channel, requests); r.signal != c.name {
			t.Errorf("signal %s: got %+v", c.name, r)
		}
	}
	for _, name := range []string{"", "0@banger", "65@banger", "-1@banger", "9", "WINCH", "x@banger"} {
		if sig, ok := signalOf(name); ok {
			t.Errorf("%q is signal %d", name, sig)
		}
	}
}
