package sshd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"banger/internal/guest/wire"
)

// sshGuest is an SSH server whose only user is the one that runs the tests.
type sshGuest struct {
	server *Server
	home   string
	name   string
	key    ssh.Signer

	ciphers []string // that its clients know; nil: the usual
}

func newSSHGuest(t *testing.T) *sshGuest {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	g := &sshGuest{home: t.TempDir(), name: "tester", key: newSigner(t)}
	etc := t.TempDir()
	line := fmt.Sprintf("tester:x:%s:%s::%s:/bin/sh\n", me.Uid, me.Gid, g.home)
	if err := os.WriteFile(filepath.Join(etc, "passwd"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	authorized := ssh.MarshalAuthorizedKey(g.key.PublicKey())
	g.server = &Server{
		host:    newSigner(t),
		keys:    func() []byte { return append([]byte("# owner\n"), authorized...) },
		etc:     etc,
		sockets: t.TempDir(),
		ciphers: usualCiphers,
		start:   (*exec.Cmd).Start,
	}
	return g
}

// dial opens an SSH connection over a socket pair.
func (g *sshGuest) dial(t *testing.T, keys ...ssh.Signer) (*ssh.Client, error) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := l.Accept()
		l.Close()
		if err == nil {
			g.server.Serve(conn)
		}
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); <-served })
	c, channels, requests, err := ssh.NewClientConn(conn, "guest", &ssh.ClientConfig{
		Config:          ssh.Config{Ciphers: g.ciphers},
		User:            g.name,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(keys...)},
		HostKeyCallback: ssh.FixedHostKey(g.server.host.PublicKey()),
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

func (g *sshGuest) session(t *testing.T) *ssh.Session {
	t.Helper()
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func statusOf(err error) int {
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return exit.ExitStatus()
	}
	if err != nil {
		return -1
	}
	return 0
}

// result is the result of an ExecRequest.
type result struct {
	stdout, stderr string
	status         int
	signal         string
}

// execDirect runs a program without a shell.
func (g *sshGuest) execDirect(t *testing.T, e wire.Exec) result {
	t.Helper()
	channel, requests := g.begin(t, e, "")
	channel.CloseWrite()
	return resultOf(channel, requests)
}

// begin starts a program without a shell, with a terminal if term names one.
func (g *sshGuest) begin(t *testing.T, e wire.Exec, term string) (ssh.Channel, <-chan *ssh.Request) {
	t.Helper()
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	send := func(kind string, payload []byte) {
		if ok, err := channel.SendRequest(kind, true, payload); !ok || err != nil {
			t.Fatalf("%s: %v %v", kind, ok, err)
		}
	}
	if term != "" {
		send("pty-req", ssh.Marshal(ttyRequest{Term: term, Cols: 80, Rows: 24, Modes: "\x00"}))
	}
	payload, _ := json.Marshal(e)
	for len(payload) > wire.MaxExecPart {
		send(wire.ExecPartRequest, payload[:wire.MaxExecPart])
		payload = payload[wire.MaxExecPart:]
	}
	send(wire.ExecRequest, payload)
	return channel, requests
}

func resultOf(channel ssh.Channel, requests <-chan *ssh.Request) result {
	r := result{status: -1}
	stderr := make(chan string)
	go func() { b, _ := io.ReadAll(channel.Stderr()); stderr <- string(b) }()
	stdout, _ := io.ReadAll(channel)
	r.stdout, r.stderr = string(stdout), <-stderr
	for q := range requests {
		r.ended(q)
	}
	return r
}

// ended takes a request about a program's end.
func (r *result) ended(q *ssh.Request) {
	switch q.Type {
	case "exit-status":
		var v struct{ Status uint32 }
		ssh.Unmarshal(q.Payload, &v)
		r.status = int(v.Status)
	case "exit-signal":
		var v struct {
			Signal string
			Rest   []byte `ssh:"rest"`
		}
		ssh.Unmarshal(q.Payload, &v)
		r.signal = v.Signal
	}
}

func bytesOf(words ...string) (list [][]byte) {
	for _, w := range words {
		list = append(list, []byte(w))
	}
	return list
}

func TestSSHRefusesUnknownKeysAndUsers(t *testing.T) {
	g := newSSHGuest(t)
	if _, err := g.dial(t, newSigner(t)); err == nil {
		t.Error("a stranger's key was accepted")
	}
	g.name = "nobody-here"
	if _, err := g.dial(t, g.key); err == nil {
		t.Error("an unknown user was accepted")
	}
}

// TestSSHTakesTheLastOfManyKeys: ssh offers all keys of the user's agent first.
func TestSSHTakesTheLastOfManyKeys(t *testing.T) {
	g := newSSHGuest(t)
	var keys []ssh.Signer
	for range 20 {
		keys = append(keys, newSigner(t))
	}
	if _, err := g.dial(t, append(keys, g.key)...); err != nil {
		t.Error(err)
	}
}

func TestSSHExecThroughShell(t *testing.T) {
	s := newSSHGuest(t).session(t)
	var stdout, stderr bytes.Buffer
	s.Stdout, s.Stderr = &stdout, &stderr
	s.Stdin = strings.NewReader("from stdin")
	err := s.Run(`cat; echo; echo "$USER $LANG"; echo oops >&2; exit 37`)
	if got := statusOf(err); got != 37 {
		t.Errorf("status %d (%v), want 37", got, err)
	}
	if stdout.String() != "from stdin\ntester C.UTF-8\n" || stderr.String() != "oops\n" {
		t.Errorf("stdout %q stderr %q", &stdout, &stderr)
	}
}

func TestSSHEnvAndHome(t *testing.T) {
	g := newSSHGuest(t)
	s := g.session(t)
	if err := s.Setenv("GREETING", "good day"); err != nil {
		t.Fatal(err)
	}
	out, err := s.Output(`echo "$GREETING"; pwd; echo "$HOME"`)
	want := "good day\n" + g.home + "\n" + g.home + "\n"
	if err != nil || string(out) != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

func TestSSHLoginShell(t *testing.T) {
	g := newSSHGuest(t)
	if err := os.WriteFile(filepath.Join(g.home, ".profile"), []byte("GREETING=hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := g.session(t)
	var out bytes.Buffer
	s.Stdout = &out
	s.Stdin = strings.NewReader("echo $GREETING from $0\nexit 3\n")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if got := statusOf(s.Wait()); got != 3 || out.String() != "hello from -sh\n" {
		t.Errorf("status %d, output %q", got, &out)
	}
}

func TestSSHExitSignal(t *testing.T) {
	err := newSSHGuest(t).session(t).Run(`kill -USR1 $$`)
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.Signal() != "USR1" {
		t.Errorf("got %v, want signal USR1", err)
	}
}

func TestSSHSignalReachesGroup(t *testing.T) {
	s := newSSHGuest(t).session(t)
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(`trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done`); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(ssh.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	if got := statusOf(s.Wait()); got != 9 || string(rest) != "caught\n" {
		t.Errorf("status %d, output %q", got, rest)
	}
}

func TestSSHStatusWaitsForOutput(t *testing.T) {
	s := newSSHGuest(t).session(t)
	// What the shell leaves behind writes when the shell is gone.
	out, err := s.Output(`(while kill -0 $$ 2>/dev/null; do :; done; echo late) & exit 5`)
	if got := statusOf(err); got != 5 || string(out) != "late\n" {
		t.Errorf("status %d, output %q", got, out)
	}
}

func TestSSHTerminal(t *testing.T) {
	s := newSSHGuest(t).session(t)
	if err := s.RequestPty("vt220", 33, 101, nil); err != nil {
		t.Fatal(err)
	}
	out, err := s.Output(`echo "$TERM"; stty size; test -t 0 && test -t 2 && echo tty; exit 4`)
	if got := statusOf(err); got != 4 || string(out) != "vt220\r\n33 101\r\ntty\r\n" {
		t.Errorf("status %d, output %q", got, out)
	}
}

// TestSSHTerminalEndsWithItsProgram leaves a program in the background that has the
// terminal open. The session ends anyway, with everything that was written before.
func TestSSHTerminalEndsWithItsProgram(t *testing.T) {
	s := newSSHGuest(t).session(t)
	if err := s.RequestPty("vt220", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	out, err := s.Output(`mkfifo f; setsid sh -c 'echo $$ >f; sleep 20; echo late' & read pid <f; echo $pid; seq 1 20000; exit 4`)
	first, rest, _ := strings.Cut(string(out), "\r\n")
	pid, _ := strconv.Atoi(first)
	if pid <= 1 {
		t.Fatalf("output %q", out)
	}
	syscall.Kill(-pid, syscall.SIGKILL)
	var want strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&want, "%d\r\n", i+1)
	}
	if got := statusOf(err); got != 4 || rest != want.String() {
		t.Errorf("status %d, %d bytes of output, want 4 and %d", got, len(rest), want.Len())
	}
}

func TestSSHWindowChange(t *testing.T) {
	s := newSSHGuest(t).session(t)
	if err := s.RequestPty("vt220", 24, 80, ssh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.Start(`stty -echo; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done`); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	line := make([]byte, 7)
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatal(err)
	}
	if err := s.WindowChange(40, 120); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	if string(rest) != "40 120\r\n" {
		t.Errorf("got %q", rest)
	}
}

func TestSSHHangsUp(t *testing.T) {
	// Tests run by nohup ignore the signal, and a shell that began so cannot trap it.
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP)
	defer signal.Stop(heard)
	for _, terminal := range []bool{false, true} {
		t.Run(fmt.Sprintf("terminal=%v", terminal), func(t *testing.T) {
			g := newSSHGuest(t)
			client, err := g.dial(t, g.key)
			if err != nil {
				t.Fatal(err)
			}
			s, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if terminal {
				if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
					t.Fatal(err)
				}
			}
			fifo := filepath.Join(g.home, "f")
			out, _ := s.StdoutPipe()
			if err := s.Start(`mkfifo f; exec 3<>f 2>/dev/null; trap 'echo hup >&3; exit' HUP; echo ready; while :; do sleep 0.1; done`); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 5)
			if _, err := io.ReadFull(out, line); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(fifo)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			client.Close()
			if got, err := io.ReadAll(f); err != nil || string(got) != "hup\n" {
				t.Errorf("the program said %q, %v", got, err)
			}
		})
	}
}

func TestSFTP(t *testing.T) {
	g := newSSHGuest(t)
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	files, err := sftp.NewClient(client)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	f, err := files.Create("put")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(g.home, "put"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes arrived, %v", len(got), err)
	}
	if real, err := files.RealPath("."); err != nil || real != g.home {
		t.Errorf("it begins in %q, %v", real, err)
	}
	for _, target := range []string{"put", "../elsewhere", "/abs"} {
		if err := files.Symlink(target, "link"); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(filepath.Join(g.home, "link")); err != nil || got != target {
			t.Errorf("a link to %s leads to %q, %v", target, got, err)
		}
		if err := files.Remove("link"); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Close(); err != nil {
		t.Error(err)
	}
}
