//go:build vm

package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/vmm/firecracker"
)

// pattern is an endless stream that both ends can produce: the output of `seq`.
type pattern struct {
	line []byte
	n    int64
}

func (p *pattern) Read(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		if len(p.line) == 0 {
			p.n++
			p.line = append(strconv.AppendInt(p.line[:0], p.n, 10), '\n')
		}
		n := copy(b[done:], p.line)
		p.line = p.line[n:]
		done += n
	}
	return done, nil
}

// patternDigest returns the digest of the pattern's first n bytes.
func patternDigest(n int64) string {
	hash := sha256.New()
	io.CopyN(hash, &pattern{}, n)
	return hex.EncodeToString(hash.Sum(nil))
}

// crossing is a program that sends the pattern and stores what it receives, until the
// other end is gone; then the file gets its name.
const crossing = `trap '' HUP TERM; seq 1000000000 2>/dev/null & cat >"$0.new"; mv "$0.new" "$0"`

// TestCutTransfers kills the daemon repeatedly while bytes flow in both directions. With
// QEMU that cuts the link, which goes through the daemon; with Firecracker only killing
// the client does. Everything that arrived is correct, and the next daemon reaches the
// guest. TestReconnect cuts the link 150 times.
func TestCutTransfers(t *testing.T) {
	t.Parallel()
	h := own(t)
	vm := h.create(t, "--name", "cut", "--image", h.tiny(t))
	boot := h.bootID(t, vm.Name)
	outlives := vm.Driver == firecracker.Name
	var back []time.Duration
	for round := range rounds(t, 8) {
		file := fmt.Sprintf("/root/taken-%d", round)
		cmd := h.command(t.Context(), "vm", "exec", vm.Name, "--", "sh", "-c", crossing, file)
		cmd.Stdin = &pattern{}
		cmd.WaitDelay = bootTime
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		hash := sha256.New()
		got, err := io.CopyN(hash, out, rand.Int64N(600_000)+1)
		if err != nil {
			t.Fatalf("round %d: %v after %d bytes", round, err, got)
		}
		h.killDaemon(t)
		status := 125
		if outlives {
			more, err := io.CopyN(hash, out, 1<<20) // more than was in transit
			if err != nil {
				t.Fatalf("round %d: %v after %d bytes without a daemon", round, err, more)
			}
			got, status = got+more, -1
			cmd.Process.Kill()
		}
		begun := time.Now()
		rest, _ := io.Copy(hash, out)
		got += rest
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != status {
			t.Errorf("round %d: a program that was cut off ended with %d, want %d", round, code, status)
		}
		if sum := hex.EncodeToString(hash.Sum(nil)); sum != patternDigest(got) {
			t.Errorf("round %d: the %d bytes from the guest are not what it sent", round, got)
		}
		if again := h.bootID(t, vm.Name); again != boot {
			t.Fatalf("the boot id was %s, is %s", boot, again)
		}
		back = append(back, time.Since(begun))
		h.inGuest(t, vm.Name, "[ -e "+file+" ]")
		var taken int64
		var sum string
		if _, err := fmt.Sscan(h.sh(t, vm.Name, "stat -c %s "+file+"; sha256sum "+file+"; rm "+file), &taken, &sum); err != nil {
			t.Fatal(err)
		}
		if taken == 0 || sum != patternDigest(taken) {
			t.Errorf("round %d: the %d bytes to the guest are not what was sent", round, taken)
		}
		t.Logf("round %d: %d bytes from the guest, %d to it", round, got, taken)
	}
	slices.Sort(back)
	t.Logf("from the daemon's death to the next program's end: median %v, max %v", back[len(back)/2], back[len(back)-1])
	h.stopped(t, vm)
}

// TestSharedLink: a stream at full speed does not starve others.
func TestSharedLink(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "sharing", "--image", h.tiny(t))
	probe := func(t *testing.T, what string) {
		t.Helper()
		var execs, controls []time.Duration
		late := 0
		for range 20 {
			begun := time.Now()
			if r := h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "true"); r.code != 0 {
				t.Fatalf("exit %d: %s", r.code, r.stderr)
			}
			execs = append(execs, time.Since(begun))
			begun = time.Now()
			until(t, bootTime, "an answer on the guest's control port", func() bool {
				r := h.run(t.Context(), nil, "vm", "stats", "--json", vm.Name)
				if r.code != 0 {
					t.Fatalf("exit %d: %s", r.code, r.stderr)
				}
				heard := strings.Contains(r.stdout, `"load`)
				if !heard {
					late++
				}
				return heard
			})
			controls = append(controls, time.Since(begun))
		}
		slices.Sort(execs)
		slices.Sort(controls)
		t.Logf("%s: exec median %v, max %v; stats median %v, max %v, %d too late to be told", what, execs[10], execs[19], controls[10], controls[19], late)
	}
	probe(t, "idle")
	for _, c := range []struct{ name, script string }{{"from the guest", "cat /dev/zero"}, {"to the guest", "cat >/dev/null"}} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			bulk := h.command(ctx, "vm", "exec", vm.Name, "--", "sh", "-c", c.script)
			var moved counter
			bulk.Stdin, bulk.Stdout = io.TeeReader(&pattern{}, &moved), &moved
			if c.name == "from the guest" {
				bulk.Stdin = nil
			}
			if err := bulk.Start(); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			probe(t, c.name)
			t.Logf("beside it went %s", rate(int(moved.count()), time.Since(begun)))
			before := moved.count()
			until(t, bootTime, "the stream's going on", func() bool { return moved.count() > before })
			cancel()
			bulk.Wait()
		})
	}
}

type counter struct {
	mu sync.Mutex
	n  int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += int64(len(b))
	return len(b), nil
}

func (c *counter) count() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// TestAgentKilled is for guests whose init is the agent.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "headless", "--image", h.tiny(t))
	killAgent(t, h, vm.Name, 3)
	h.stopped(t, vm)
}

// killAgent kills the agent's server in the guest: sessions end, and it starts again.
func killAgent(t *testing.T, h *home, name string, times int) {
	t.Helper()
	boot := h.bootID(t, name)
	server := func() string {
		return h.sh(t, name, "grep -l ^@banger-agent /proc/[0-9]*/cmdline 2>/dev/null | xargs grep -l serve | cut -d / -f 3")
	}
	for range times {
		pid := server()
		if _, err := strconv.Atoi(pid); err != nil {
			t.Fatalf("the server is process %q", pid)
		}
		session := h.command(t.Context(), "vm", "exec", name, "--", "sh", "-c", "echo up; exec sleep 100000")
		out, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		session.Stderr = &said
		if err := session.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("up\n"))); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		h.run(t.Context(), nil, "vm", "exec", name, "--", "kill", "-KILL", pid)
		io.Copy(io.Discard, out)
		session.Wait()
		if code := session.ProcessState.ExitCode(); code != 125 || !strings.Contains(said.String(), "ended before the program did") {
			t.Errorf("the session ended with %d: %s", code, said.String())
		}
		if again := server(); again == pid || h.bootID(t, name) != boot {
			t.Errorf("the server was %s, is %s", pid, again)
		}
		t.Logf("back after %v", time.Since(begun))
	}
}
