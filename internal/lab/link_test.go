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
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"banger"
)

// client is the user's own ssh and its kin, by the entry that banger prints, in
// surroundings that have nothing else of this home.
type client struct {
	h    *home
	t    *testing.T
	name string
	file string // configuration of ssh
	dir  string // for files of the test
}

// newClient has banger printed from a path that is none for the faint-hearted.
func newClient(t *testing.T, h *home, vm banger.VM) *client {
	t.Helper()
	c := &client{h: h, t: t, name: vm.Name, dir: t.TempDir()}
	odd := filepath.Join(c.dir, "a b 100% 'c'")
	if err := os.Mkdir(odd, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"banger", "bangerd", "banger-agent"} {
		copyFile(t, filepath.Join(h.bin, name), filepath.Join(odd, name))
	}
	bin := h.bin
	h.bin = odd
	entry := h.banger(t, "vm", "ssh-config", vm.Name)
	h.bin = bin
	c.file = filepath.Join(c.dir, "ssh_config")
	if err := os.WriteFile(c.file, []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *client) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"HOME=" + c.h.dir, "PATH=" + os.Getenv("PATH")}
	cmd.Dir = c.dir
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run runs a program that must succeed and returns its stdout.
func (c *client) run(stdin, program string, args ...string) string {
	c.t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		c.t.Skipf("%s is missing: apt-get install rsync openssh-client", program)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := c.command(ctx, program, args...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &said
	begun := time.Now()
	err := cmd.Run()
	c.t.Logf("%5.1fs %s %s", time.Since(begun).Seconds(), program, strings.Join(args, " "))
	if err != nil {
		c.t.Fatalf("%s %q: %v\n%s%s", program, args, err, out.String(), said.String())
	}
	return out.String()
}

func (c *client) ssh(stdin string, args ...string) string {
	c.t.Helper()
	return c.run(stdin, "ssh", append([]string{"-F", c.file}, args...)...)
}

// hold runs ssh until the test's end, without a program in the guest.
func (c *client) hold(t *testing.T, args ...string) {
	t.Helper()
	cmd := c.command(t.Context(), "ssh", append([]string{"-F", c.file, "-o", "ExitOnForwardFailure=yes"}, args...)...)
	out, err := cmd.StdoutPipe()
	in, err2 := cmd.StdinPipe()
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, len("up\n"))); err != nil {
		t.Fatalf("ssh %q: %v", args, err)
	}
}

// untilEOF is a program for hold: it says that it is there, and ends with its stdin.
const untilEOF = "echo up; cat >/dev/null"

// noise makes a file that nothing can compress, and returns its digest.
func noise(t *testing.T, path string, size int) string {
	t.Helper()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return digest(t, path)
}

func rate(size int, took time.Duration) string {
	return fmt.Sprintf("%.1f MB/s", float64(size)/1e6/took.Seconds())
}

// freePort is a port of this host's loopback that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// greeter listens on this host's loopback and answers every connection with a word.
func greeter(t *testing.T, word string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, word)
			conn.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// guestServer is a program in the guest that answers on a port of its loopback
// with what it is sent, in capitals.
func (c *client) guestServer(t *testing.T, port int) {
	c.h.sh(t, c.name, fmt.Sprintf(`cat >/tmp/server.py <<'E'
import socket
s = socket.create_server(("127.0.0.1", %d))
while True:
    k, _ = s.accept()
    k.sendall(k.recv(100).upper())
    k.close()
E
setsid python3 /tmp/server.py >/dev/null 2>&1 </dev/null & 
for i in $(seq 100); do python3 -c 'import socket; socket.create_connection(("127.0.0.1", %d))' 2>/dev/null && exit 0; sleep 0.1; done; exit 1`, port, port))
}

func ask(t *testing.T, conn net.Conn, word string) string {
	t.Helper()
	defer conn.Close() // ssh does not end before what it forwards
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, word); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// TestSSHClients is what people put on top of ssh, by the entry that banger prints.
func TestSSHClients(t *testing.T) {
	h := shared
	vm := h.create(t, "--name", "clients", "--memory", "512")
	c := newClient(t, h, vm)
	const size = 20 << 20
	sum := noise(t, filepath.Join(c.dir, "big"), size)
	less := noise(t, filepath.Join(c.dir, "less"), size/8)
	inGuest := func(t *testing.T, path string) string {
		t.Helper()
		return strings.Fields(h.sh(t, vm.Name, "sha256sum "+path))[0]
	}
	same := func(t *testing.T, what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s has %s, want %s", what, got, want)
		}
	}
	t.Run("ssh", func(t *testing.T) {
		for _, name := range []string{vm.Name, vm.Name + ".vm"} {
			if got := c.ssh("in", name, "cat; hostname; exit 0"); got != "in"+vm.Name+"\n" {
				t.Errorf("%s: %q", name, got)
			}
		}
	})
	t.Run("sftp", func(t *testing.T) {
		begun := time.Now()
		c.run("put big sftp-up\n", "sftp", "-F", c.file, "-b", "-", vm.Name)
		t.Logf("up: %s", rate(size, time.Since(begun)))
		same(t, "the guest", inGuest(t, "sftp-up"), sum)
		begun = time.Now()
		c.run("get sftp-up sftp-down\n", "sftp", "-F", c.file, "-b", "-", vm.Name)
		t.Logf("down: %s", rate(size, time.Since(begun)))
		same(t, "the host", digest(t, filepath.Join(c.dir, "sftp-down")), sum)
		c.run("mkdir dir\ncd dir\nput ssh_config one\nrename one two\nchmod 600 two\nln -s two three\nls -l\nget two back\nrm two\n", "sftp", "-F", c.file, "-b", "-", vm.Name)
		if digest(t, filepath.Join(c.dir, "back")) != digest(t, c.file) {
			t.Error("a small file came back changed")
		}
		if got := h.sh(t, vm.Name, "ls dir"); got != "three" {
			t.Errorf("the directory has %q", got)
		}
	})
	t.Run("scp", func(t *testing.T) {
		c.run("", "scp", "-F", c.file, "less", vm.Name+":scp-up")
		same(t, "the guest", inGuest(t, "scp-up"), less)
		c.run("", "scp", "-O", "-F", c.file, vm.Name+":scp-up", "scp-down") // the protocol of old
		same(t, "the host", digest(t, filepath.Join(c.dir, "scp-down")), less)
	})
	t.Run("rsync", func(t *testing.T) {
		ssh := "ssh -F " + c.file
		c.run("", "rsync", "-a", "-e", ssh, "less", vm.Name+":rsync-up")
		same(t, "the guest", inGuest(t, "rsync-up"), less)
		c.run("", "rsync", "-a", "-e", ssh, vm.Name+":rsync-up", "rsync-down")
		same(t, "the host", digest(t, filepath.Join(c.dir, "rsync-down")), less)
	})
	t.Run("forwards", func(t *testing.T) {
		const port, back = 7001, 7002
		c.guestServer(t, port)
		local, socks := freePort(t), freePort(t)
		c.hold(t, "-L", fmt.Sprintf("%d:127.0.0.1:%d", local, port), "-R", fmt.Sprintf("%d:127.0.0.1:%d", back, greeter(t, "from the host")),
			"-D", fmt.Sprint(socks), vm.Name, untilEOF)
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", local))
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, conn, "hello"); got != "HELLO" {
			t.Errorf("-L: %q", got)
		}
		if got := h.sh(t, vm.Name, fmt.Sprintf(`python3 -c 'import socket; k = socket.create_connection(("127.0.0.1", %d)); print(k.recv(100).decode())'`, back)); got != "from the host" {
			t.Errorf("-R: %q", got)
		}
		if got := ask(t, socksDial(t, socks, port), "by socks"); got != "BY SOCKS" {
			t.Errorf("-D: %q", got)
		}
	})
	t.Run("an editor's way", func(t *testing.T) {
		const port = 7003
		c.guestServer(t, port)
		socks := freePort(t)
		cmd := c.command(t.Context(), "ssh", "-F", c.file, "-T", "-D", fmt.Sprint(socks), vm.Name, "bash")
		in, err := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer in.Close()
		fmt.Fprintln(in, "mkdir -p ~/.editor && echo $$ >~/.editor/pid && uname -s && echo ready")
		want := "Linux\nready\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != want {
			t.Fatalf("%q, %v", got, err)
		}
		for i := range 3 {
			if got := ask(t, socksDial(t, socks, port), fmt.Sprintf("request %d", i)); got != fmt.Sprintf("REQUEST %d", i) {
				t.Errorf("got %q", got)
			}
		}
	})
	t.Run("one connection for many sessions", func(t *testing.T) {
		control := []string{"-o", "ControlMaster=auto", "-o", "ControlPath=" + filepath.Join(c.dir, "%C"), "-o", "ControlPersist=yes"}
		args := func(more ...string) []string { return append(slices.Clone(control), more...) }
		c.hold(t, args("-M", vm.Name, untilEOF)...)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				cmd := c.command(t.Context(), "ssh", append([]string{"-F", c.file}, args(vm.Name, "cat; echo "+fmt.Sprint(i))...)...)
				cmd.Stdin = strings.NewReader("in ")
				if out, err := cmd.CombinedOutput(); err != nil || string(out) != fmt.Sprintf("in %d\n", i) {
					t.Errorf("session %d: %q, %v", i, out, err)
				}
			})
		}
		all.Wait()
		cmd := c.command(t.Context(), "ssh", append([]string{"-F", c.file}, args("-O", "exit", vm.Name)...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("the agent of keys", func(t *testing.T) {
		key := filepath.Join(c.dir, "key")
		c.run("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a key that stays here", "-f", key)
		socket := filepath.Join(c.dir, "agent")
		agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		defer agent.Wait()
		defer agent.Process.Kill()
		until(t, 10*time.Second, "ssh-agent's socket", func() bool { _, err := os.Stat(socket); return err == nil })
		with := func(program string, args ...string) string {
			cmd := c.command(t.Context(), program, args...)
			cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v: %s", program, err, out)
			}
			return string(out)
		}
		with("ssh-add", "-q", key)
		if out := with("ssh", "-F", c.file, "-A", vm.Name, "ssh-add -l"); !strings.Contains(out, "a key that stays here") {
			t.Errorf("got %q", out)
		}
	})
	for name, command := range map[string]func() *exec.Cmd{
		"a terminal of exec": func() *exec.Cmd {
			return h.command(t.Context(), "vm", "exec", "-t", vm.Name, "--", "bash", "-c", sizes)
		},
		"a terminal of ssh": func() *exec.Cmd { return c.command(t.Context(), "ssh", "-F", c.file, "-t", vm.Name, sizes) },
	} {
		t.Run(name, func(t *testing.T) { resized(t, command()) })
	}
}

// sizes tells its terminal's size at its begin and at each change.
const sizes = `trap 'stty size' WINCH; stty size; while :; do read -r -t 1 line; [ "$line" = end ] && exit 7; done`

func resized(t *testing.T, cmd *exec.Cmd) {
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 101, Rows: 33})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var seen strings.Builder
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for !strings.Contains(seen.String(), want) {
			n, err := terminal.Read(buf)
			if err != nil {
				t.Fatalf("%v after %q, before %q", err, seen.String(), want)
			}
			seen.Write(buf[:n])
		}
	}
	expect("33 101")
	for _, size := range []pty.Winsize{{Cols: 77, Rows: 22}, {Cols: 300, Rows: 90}} {
		if err := pty.Setsize(terminal, &size); err != nil {
			t.Fatal(err)
		}
		expect(fmt.Sprintf("%d %d", size.Rows, size.Cols))
	}
	io.WriteString(terminal, "end\n")
	io.Copy(io.Discard, terminal)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit %d", code)
	}
}

// socksDial connects to a port of the guest's loopback through a SOCKS5 server here.
func socksDial(t *testing.T, proxy, port int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", proxy))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	conn.Write([]byte{5, 1, 0})
	conn.Write([]byte{5, 1, 0, 1, 127, 0, 0, 1, byte(port >> 8), byte(port)})
	answer := make([]byte, 2+10)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 5 || answer[3] != 0 {
		t.Fatalf("SOCKS: %v, %v", answer, err)
	}
	return conn
}

// pattern is an endless stream that every end can make by itself, with python's
// counter as the guest's: eight bytes for each number.
type pattern struct{ at int64 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = patternAt(p.at + int64(i))
	}
	p.at += int64(len(b))
	return len(b), nil
}

func patternAt(at int64) byte {
	return byte(uint64(at/8) >> (8 * (at % 8)))
}

// patternDigest is the digest of the pattern's first n bytes.
func patternDigest(n int64) string {
	hash := sha256.New()
	io.CopyN(hash, &pattern{}, n)
	return hex.EncodeToString(hash.Sum(nil))
}

// crossing is a program that writes the pattern and takes what it reads, until
// either end is gone; then it leaves in a file how much it took, and the digest.
const crossing = `import hashlib, os, struct, sys, threading
h, n = hashlib.sha256(), 0
def write():
    i = 0
    try:
        while True:
            b = struct.pack("<4096Q", *range(i, i + 4096)); i += 4096
            while b:
                b = b[os.write(1, b):]
    except OSError:
        pass
threading.Thread(target=write, daemon=True).start()
try:
    while True:
        b = os.read(0, 65536)
        if not b: break
        h.update(b); n += len(b)
except OSError:
    pass
with open(sys.argv[1] + ".new", "w") as f: f.write("%d %s" % (n, h.hexdigest()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
os._exit(0)
`

// TestCutTransfers cuts the link by the daemon's death, again and again, with
// bytes under way in both directions: what had arrived is right to the last
// byte, and the next daemon finds the guest. TestReconnect cuts it 150 times.
func TestCutTransfers(t *testing.T) {
	h := shared
	vm := h.create(t, "--name", "cut", "--memory", "512")
	boot := h.bootID(t, vm.Name)
	if r := h.run(t.Context(), []byte(crossing), "vm", "exec", vm.Name, "--", "sh", "-c", "cat >/root/crossing.py"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	rounds := 12
	if text := os.Getenv("BANGER_TEST_ROUNDS"); text != "" {
		rounds, _ = strconv.Atoi(text)
	}
	var back []time.Duration
	for round := range rounds {
		file := fmt.Sprintf("/root/taken-%d", round)
		cmd := h.command(t.Context(), "vm", "exec", vm.Name, "--", "python3", "/root/crossing.py", file)
		cmd.Stdin = &pattern{}
		cmd.WaitDelay = time.Minute
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		hash := sha256.New()
		cut := int64(rand.IntN(2_000_000)) + 1
		got, err := io.CopyN(hash, out, cut)
		if err != nil {
			t.Fatalf("round %d: %v after %d bytes", round, err, got)
		}
		h.killDaemon(t)
		begun := time.Now()
		rest, _ := io.Copy(hash, out)
		got += rest
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 125 {
			t.Errorf("round %d: a program that was cut off ended with %d", round, code)
		}
		if sum := hex.EncodeToString(hash.Sum(nil)); sum != patternDigest(got) {
			t.Errorf("round %d: the %d bytes from the guest are not what it sent", round, got)
		}
		if again := h.bootID(t, vm.Name); again != boot {
			t.Fatalf("the boot id was %s, is %s", boot, again)
		}
		back = append(back, time.Since(begun))
		var taken int64
		var sum string
		fmt.Sscan(h.sh(t, vm.Name, "for i in $(seq 300); do [ -e "+file+" ] && break; sleep 0.1; done; cat "+file), &taken, &sum)
		if taken == 0 || sum != patternDigest(taken) {
			t.Errorf("round %d: the %d bytes to the guest are not what was sent", round, taken)
		}
		t.Logf("round %d: %d bytes from the guest, %d to it", round, got, taken)
	}
	slices.Sort(back)
	t.Logf("from the daemon's death to the next program's end: median %v, max %v", back[len(back)/2], back[len(back)-1])
}

// TestSharedLink: a stream that runs flat out starves nobody.
func TestSharedLink(t *testing.T) {
	h := shared
	vm := h.create(t, "--name", "sharing", "--memory", "512")
	probe := func(t *testing.T, what string) {
		t.Helper()
		var execs, controls []time.Duration
		for range 20 {
			begun := time.Now()
			if r := h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "true"); r.code != 0 {
				t.Fatalf("exit %d: %s", r.code, r.stderr)
			}
			execs = append(execs, time.Since(begun))
			begun = time.Now()
			if r := h.run(t.Context(), nil, "vm", "stats", "--json", vm.Name); r.code != 0 || !strings.Contains(r.stdout, `"load`) {
				t.Fatalf("exit %d: the guest was not heard on its control port in time: %s%s", r.code, r.stdout, r.stderr)
			}
			controls = append(controls, time.Since(begun))
		}
		slices.Sort(execs)
		slices.Sort(controls)
		t.Logf("%s: exec median %v, max %v; stats median %v, max %v", what, execs[10], execs[19], controls[10], controls[19])
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
			until(t, time.Minute, "the stream's going on", func() bool { return moved.count() > before })
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

// TestAgentKilled kills the agent's server in the guest: sessions end, and it
// is back.
func TestAgentKilled(t *testing.T) {
	h := shared
	vm := h.create(t, "--name", "headless", "--memory", "512")
	boot := h.bootID(t, vm.Name)
	server := func() string {
		return h.sh(t, vm.Name, "pgrep -fx '@banger-agent serve'")
	}
	for range 3 {
		pid := server()
		if _, err := strconv.Atoi(pid); err != nil {
			t.Fatalf("the server is process %q", pid)
		}
		session := h.command(t.Context(), "vm", "exec", vm.Name, "--", "sh", "-c", "echo up; exec sleep 1000")
		out, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		session.Stderr = &said
		if err := session.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "kill", "-KILL", pid)
		io.Copy(io.Discard, out)
		session.Wait()
		if code := session.ProcessState.ExitCode(); code != 125 || !strings.Contains(said.String(), "ended before the program did") {
			t.Errorf("the session ended with %d: %s", code, said.String())
		}
		if again := server(); again == pid || h.bootID(t, vm.Name) != boot {
			t.Errorf("the server was %s, is %s", pid, again)
		}
		t.Logf("back after %v", time.Since(begun))
	}
	h.banger(t, "vm", "stop", vm.Name)
	if now := h.show(t, vm.Name); now.Ending != banger.EndedPoweroff {
		t.Errorf("it ended %s %s", now.Ending, now.EndingBy)
	}
	cleanVM(t, vm)
}

// TestClock: whatever happens to a guest's clock, it becomes the host's by itself.
func TestClock(t *testing.T) {
	h := shared
	vm := h.create(t, "--name", "clock", "--memory", "512")
	off := func() time.Duration {
		t.Helper()
		before := time.Now()
		var seconds float64
		if _, err := fmt.Sscan(h.sh(t, vm.Name, "date +%s.%N"), &seconds); err != nil {
			t.Fatal(err)
		}
		guest := time.UnixMicro(int64(seconds * 1e6))
		switch after := time.Now(); {
		case guest.Before(before):
			return guest.Sub(before)
		case guest.After(after):
			return guest.Sub(after)
		}
		return 0
	}
	right := func(when string) {
		t.Helper()
		until(t, 10*time.Second, "the right time "+when, func() bool { return off().Abs() < 2*time.Second })
		t.Logf("%s the clock is off by %v", when, off())
	}
	right("after the boot")
	t.Run("the VMM was stopped, as by a host that sleeps", func(t *testing.T) {
		pid := h.vmm(t, vm.Name)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer syscall.Kill(pid, syscall.SIGCONT)
		until(t, 10*time.Second, "the stop of every thread", func() bool { return allStopped(t, pid) })
		time.Sleep(30 * time.Second) // the time is the point of the test
		if !allStopped(t, pid) {
			t.Fatal("the VMM did not stay stopped")
		}
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		right("after 30s of a stopped VMM")
	})
	t.Run("no daemon was there", func(t *testing.T) {
		h.sh(t, vm.Name, "date -s '-1 hour' >/dev/null")
		if got := off(); got > -59*time.Minute {
			t.Fatalf("the clock is off by %v after setting it back", got)
		}
		h.killDaemon(t)
		right("after the daemon's return")
	})
	t.Run("it keeps time while the guest works", func(t *testing.T) {
		h.sh(t, vm.Name, "timeout 20 sh -c 'while :; do :; done'; true")
		right("after 20s of work")
	})
}

func allStopped(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d: %v", pid, err)
	}
	for _, thread := range threads {
		if status, _ := os.ReadFile(thread); !bytes.Contains(status, []byte("State:\tT")) {
			return false
		}
	}
	return true
}

// TestModules: the kernel's modules are there, by modprobe and by themselves.
func TestModules(t *testing.T) {
	h := shared
	vm := h.create(t, "--name", "modules", "--memory", "512")
	out := h.sh(t, vm.Name, `for m in btrfs xfs nfs dummy wireguard tun nbd zram sctp vxlan macvlan ip_vs nft_ct dm_crypt raid456 snd_dummy; do
if modprobe $m 2>/tmp/why; then grep -q "^$m " /proc/modules && echo "$m loaded" || echo "$m vanished"; else echo "$m: $(cat /tmp/why)"; fi; done`)
	loaded := strings.Count(out, " loaded")
	t.Logf("%s", out)
	if loaded < 10 || strings.Contains(out, "vanished") {
		t.Errorf("only %d modules could be loaded", loaded)
	}
}
