//go:build vm

package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"banger"
)

// client runs the user's own ssh, scp and so on with the configuration that banger
// prints, and with nothing else of this home.
type client struct {
	h    *home
	name string
	file string // ssh's configuration
	dir  string // for the test's files
}

// newClient runs banger from a path with spaces, quotes and a percent sign.
func newClient(t *testing.T, h *home, vm banger.VM) *client {
	t.Helper()
	c := &client{h: h, name: vm.Name, dir: t.TempDir()}
	odd := filepath.Join(c.dir, "a b 100% 'c'")
	if err := os.Mkdir(odd, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"banger", "bangerd", "banger-agent"} {
		copyFile(t, filepath.Join(h.bin, name), filepath.Join(odd, name))
	}
	there := *h
	there.bin = odd
	entry := there.banger(t, "vm", "ssh-config", vm.Name)
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
func (c *client) run(t *testing.T, stdin, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is missing: apt-get install openssh-client rsync", program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	cmd := c.command(ctx, program, args...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &said
	begun := time.Now()
	err := cmd.Run()
	t.Logf("%5.1fs %s %s", time.Since(begun).Seconds(), program, strings.Join(args, " "))
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", program, args, err, out.String(), said.String())
	}
	return out.String()
}

func (c *client) ssh(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	return c.run(t, stdin, "ssh", append([]string{"-F", c.file}, args...)...)
}

// hold runs ssh until the test ends. It returns when the program in the guest runs.
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

// untilEOF is a program for hold: it reports that it runs, and ends with its stdin.
const untilEOF = "echo up; cat >/dev/null"

// noise makes a file that cannot be compressed, and returns its digest.
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

// freePort returns a free port of this host's loopback.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// greeter listens on this host's loopback and sends a word to each client. It returns
// its port.
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

// guestServer starts a server on a port of the guest's loopback, which returns what it
// is sent in capitals.
func (c *client) guestServer(t *testing.T, port int) {
	c.h.sh(t, c.name, fmt.Sprintf(`exec python3 -c '
import os, socket
s = socket.create_server(("127.0.0.1", %d))
if os.fork():
    os._exit(0)
os.setsid()
null = os.open("/dev/null", os.O_RDWR)
for fd in 0, 1, 2:
    os.dup2(null, fd)
while True:
    k, _ = s.accept()
    k.sendall(k.recv(100).upper())
    k.close()
'`, port))
}

func ask(t *testing.T, conn net.Conn, word string) string {
	t.Helper()
	defer conn.Close() // ssh does not end before what it forwards
	conn.SetDeadline(time.Now().Add(bootTime))
	if _, err := io.WriteString(conn, word); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// TestDefaultImage tests what needs more programs than the tiny image has. Its parts
// share a VM.
func TestDefaultImage(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "clients", "--memory", "512")
	t.Run("what is written to /tmp at once", func(t *testing.T) { earlyFile(t, h, vm.Name) })
	t.Run("what is put on top of ssh", func(t *testing.T) {
		c := newClient(t, h, vm)
		t.Run("files", c.files)
		t.Run("ports", c.ports)
		t.Run("sessions", c.sessions)
	})
	t.Run("what a person expects", func(t *testing.T) { welcoming(t, h, vm.Name) })
	t.Run("modules by modprobe", func(t *testing.T) { modules(t, h, vm.Name) })
	t.Run("the agent's server is killed", func(t *testing.T) { killAgent(t, h, vm.Name, 1) })
}

// files copies files in each way there is.
func (c *client) files(t *testing.T) {
	less := noise(t, filepath.Join(c.dir, "less"), 1<<20)
	inGuest := func(t *testing.T, path string) string {
		t.Helper()
		return strings.Fields(c.h.sh(t, c.name, "sha256sum "+path))[0]
	}
	same := func(t *testing.T, what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s has %s, want %s", what, got, want)
		}
	}
	t.Run("sftp", func(t *testing.T) {
		const size = 20 << 20
		sum := noise(t, filepath.Join(c.dir, "bulk"), size)
		begun := time.Now()
		c.run(t, "put bulk sftp-up\n", "sftp", "-F", c.file, "-b", "-", c.name)
		t.Logf("up: %s", rate(size, time.Since(begun)))
		same(t, "the guest", inGuest(t, "sftp-up"), sum)
		begun = time.Now()
		c.run(t, "get sftp-up sftp-down\n", "sftp", "-F", c.file, "-b", "-", c.name)
		t.Logf("down: %s", rate(size, time.Since(begun)))
		same(t, "the host", digest(t, filepath.Join(c.dir, "sftp-down")), sum)
		c.run(t, "mkdir dir\ncd dir\nput ssh_config one\nrename one two\nchmod 600 two\nln -s two three\nls -l\nget two back\nrm two\n", "sftp", "-F", c.file, "-b", "-", c.name)
		if digest(t, filepath.Join(c.dir, "back")) != digest(t, c.file) {
			t.Error("a small file came back changed")
		}
		if got := c.h.sh(t, c.name, "ls dir"); got != "three" {
			t.Errorf("the directory has %q", got)
		}
	})
	t.Run("scp", func(t *testing.T) {
		c.run(t, "", "scp", "-F", c.file, "less", c.name+":scp-up")
		same(t, "the guest", inGuest(t, "scp-up"), less)
		c.run(t, "", "scp", "-O", "-F", c.file, c.name+":scp-up", "scp-down") // the old protocol
		same(t, "the host", digest(t, filepath.Join(c.dir, "scp-down")), less)
		c.h.sh(t, c.name, "useradd -m eve && cp scp-up ~eve/hers")
		c.run(t, "", "scp", "-F", c.file, c.name+":~eve/hers", "scp-hers")
		same(t, "another user's file", digest(t, filepath.Join(c.dir, "scp-hers")), less)
	})
	t.Run("rsync", func(t *testing.T) {
		ssh := "ssh -F " + c.file
		c.run(t, "", "rsync", "-a", "-e", ssh, "less", c.name+":rsync-up")
		same(t, "the guest", inGuest(t, "rsync-up"), less)
		c.run(t, "", "rsync", "-a", "-e", ssh, c.name+":rsync-up", "rsync-down")
		same(t, "the host", digest(t, filepath.Join(c.dir, "rsync-down")), less)
	})
	t.Run("the README's way", func(t *testing.T) {
		readme := read(t, "../../README.md")
		_, line, found := strings.Cut(readme, "\n    rsync ")
		line, _, _ = strings.Cut(line, "\n")
		if !found {
			t.Fatal("the README has no rsync")
		}
		line = "mkdir src && cp less src/ && rsync " + strings.ReplaceAll(line, "calm-otter", c.name)
		c.run(t, "", "env", "RSYNC_RSH=ssh -F "+c.file, "sh", "-c", line)
		same(t, "the guest", inGuest(t, "src/less"), less)
	})
}

// ports forwards ports, also as an editor does.
func (c *client) ports(t *testing.T) {
	const port, back = 7001, 7002
	c.guestServer(t, port)
	t.Run("forwards", func(t *testing.T) {
		local, socks := freePort(t), freePort(t)
		c.hold(t, "-L", fmt.Sprintf("%d:127.0.0.1:%d", local, port), "-R", fmt.Sprintf("%d:127.0.0.1:%d", back, greeter(t, "from the host")),
			"-D", fmt.Sprint(socks), c.name, untilEOF)
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", local))
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, conn, "hello"); got != "HELLO" {
			t.Errorf("-L: %q", got)
		}
		if got := c.h.sh(t, c.name, fmt.Sprintf(`python3 -c 'import socket; k = socket.create_connection(("127.0.0.1", %d)); print(k.recv(100).decode())'`, back)); got != "from the host" {
			t.Errorf("-R: %q", got)
		}
		if got := ask(t, socksDial(t, socks, port), "by socks"); got != "BY SOCKS" {
			t.Errorf("-D: %q", got)
		}
	})
	t.Run("an editor's way", func(t *testing.T) {
		socks := freePort(t)
		ctx, cancel := context.WithTimeout(t.Context(), bootTime)
		defer cancel()
		cmd := c.command(ctx, "ssh", "-F", c.file, "-T", "-D", fmt.Sprint(socks), c.name, "bash")
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
}

// sessions opens sessions of each kind.
func (c *client) sessions(t *testing.T) {
	t.Run("ssh", func(t *testing.T) {
		for _, name := range []string{c.name, c.name + ".vm"} {
			if got := c.ssh(t, "in", name, "cat; hostname; exit 0"); got != "in"+c.name+"\n" {
				t.Errorf("%s: %q", name, got)
			}
		}
	})
	t.Run("one connection for many sessions", func(t *testing.T) {
		control := []string{"-o", "ControlMaster=auto", "-o", "ControlPath=control", "-o", "ControlPersist=yes"}
		args := func(more ...string) []string { return append(slices.Clone(control), more...) }
		end := c.command(context.Background(), "ssh", append([]string{"-F", c.file}, args("-O", "exit", c.name)...)...)
		t.Cleanup(func() { // after hold's own cleanup
			if out, err := end.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		c.hold(t, args(c.name, untilEOF)...)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				cmd := c.command(t.Context(), "ssh", append([]string{"-F", c.file}, args(c.name, "cat; echo "+fmt.Sprint(i))...)...)
				cmd.Stdin = strings.NewReader("in ")
				if out, err := cmd.CombinedOutput(); err != nil || string(out) != fmt.Sprintf("in %d\n", i) {
					t.Errorf("session %d: %q, %v", i, out, err)
				}
			})
		}
		all.Wait()
	})
	t.Run("the agent of keys", func(t *testing.T) {
		key := filepath.Join(c.dir, "key")
		c.run(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a key that stays here", "-f", key)
		agent := c.command(t.Context(), "ssh-agent", "-D", "-a", "agent")
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		defer agent.Wait()
		defer agent.Process.Kill()
		until(t, time.Minute, "ssh-agent's socket", func() bool {
			_, err := os.Stat(filepath.Join(c.dir, "agent"))
			return err == nil
		})
		with := func(program string, args ...string) string {
			cmd := c.command(t.Context(), program, args...)
			cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK=agent")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v: %s", program, err, out)
			}
			return string(out)
		}
		with("ssh-add", "-q", key)
		if out := with("ssh", "-F", c.file, "-A", c.name, "ssh-add -l"); !strings.Contains(out, "a key that stays here") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("a terminal of exec", func(t *testing.T) {
		resized(t, c.h.command(t.Context(), "vm", "exec", "-t", c.name, "--", "python3", "-c", sizes))
	})
	t.Run("a terminal of ssh", func(t *testing.T) {
		resized(t, c.command(t.Context(), "ssh", "-F", c.file, "-t", c.name, "python3 -c '"+sizes+"'"))
	})
}

// sizes prints its terminal's size at the start and at each change, and ends at the
// last one. It blocks the signal and waits for it: a shell's trap would lose a signal
// that comes while the trap runs.
const sizes = `import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
while True:
    size = os.get_terminal_size(0)
    print(size.lines, size.columns, flush=True)
    if size.lines == 90: sys.exit(7)
    signal.sigwait({signal.SIGWINCH})
`

func resized(t *testing.T, cmd *exec.Cmd) {
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 101, Rows: 33})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	defer time.AfterFunc(bootTime, func() { cmd.Process.Kill() }).Stop()
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
	io.Copy(io.Discard, terminal)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit %d", code)
	}
}

// socksDial connects to a port of the guest's loopback through a SOCKS5 proxy here.
func socksDial(t *testing.T, proxy, port int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", proxy))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(bootTime))
	conn.Write([]byte{5, 1, 0})
	conn.Write([]byte{5, 1, 0, 1, 127, 0, 0, 1, byte(port >> 8), byte(port)})
	answer := make([]byte, 2+10)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 5 || answer[3] != 0 {
		t.Fatalf("SOCKS: %v, %v", answer, err)
	}
	return conn
}

// modules loads kernel modules of many kinds. The file systems of two of them, which
// systemd would load at each boot, are mounted then.
func modules(t *testing.T, h *home, name string) {
	out := h.sh(t, name, `for m in btrfs xfs nfs wireguard tun vxlan nft_ct dm_crypt; do
modprobe $m && grep -q "^$m " /proc/modules || echo "$m is missing"; done 2>&1
for m in configfs:/sys/kernel/config fuse:/sys/fs/fuse/connections; do
modprobe ${m%:*} && timeout 60 sh -c "until mountpoint -q ${m#*:}; do sleep 0.2; done" || echo "${m#*:} is not mounted"; done 2>&1`)
	if out != "" {
		t.Error(out)
	}
}
