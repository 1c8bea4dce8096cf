package sshd

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// openSSH is a guest that the real ssh logs in to.
type openSSH struct {
	*sshGuest
	dir    string // of the client
	args   []string
	env    []string
	served sync.Once
}

// socketName is the server's socket in the client's directory.
const socketName = "port22"

func newOpenSSH(t *testing.T) *openSSH {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("ssh is missing: apt-get install openssh-client")
	}
	o := &openSSH{sshGuest: newSSHGuest(t), dir: t.TempDir()}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(o.dir, "id")
	if err := os.WriteFile(key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	o.server.keys = func() []byte { return ssh.MarshalAuthorizedKey(signer.PublicKey()) }
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + o.dir, "SHELL=/bin/sh", roleVariable + "=connect", "TERM=xterm"}
	o.args = []string{"-F", "none", "-o", "ProxyCommand=" + self + " " + filepath.Join(o.dir, socketName), "-o", "IdentityFile=" + key, "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ExitOnForwardFailure=yes", "-o", "User=" + o.name}
	return o
}

// serve serves connections until the test ends.
func (o *openSSH) serve(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(o.dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		served.Wait()
	})
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { o.server.Serve(conn) })
		}
	})
}

// command returns the real ssh with options and, after the host's name, a command.
func (o *openSSH) command(t *testing.T, options []string, command ...string) *exec.Cmd {
	t.Helper()
	return o.client(t, "ssh", options, command...)
}

// client returns one of OpenSSH's programs. The server may be changed before the first.
func (o *openSSH) client(t *testing.T, program string, options []string, args ...string) *exec.Cmd {
	t.Helper()
	o.served.Do(func() { o.serve(t) })
	cmd := exec.CommandContext(t.Context(), program, slices.Concat(options, o.args, []string{"guest"}, args)...)
	cmd.Dir, cmd.Env = o.dir, o.env
	return cmd
}

// run runs ssh and returns its output and exit status.
func (o *openSSH) run(t *testing.T, stdin string, options []string, command ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, said bytes.Buffer
	cmd := o.command(t, options, command...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &said
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// want runs ssh and checks what it prints.
func (o *openSSH) want(t *testing.T, want string, options []string, command ...string) {
	t.Helper()
	if out, said, status := o.run(t, "", options, command...); out != want || status != 0 {
		t.Errorf("ssh %q %q: exit %d, %q, want %q: %s", options, command, status, out, want, said)
	}
}

// hold runs ssh until the test ends; its program must print a line once it runs.
func (o *openSSH) hold(t *testing.T, options []string, command ...string) *exec.Cmd {
	t.Helper()
	cmd := o.command(t, options, command...)
	out, err := cmd.StdoutPipe()
	in, err2 := cmd.StdinPipe()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 64)); err != nil {
		cmd.Wait()
		t.Fatalf("ssh %q: %v: %s", options, err, said.String())
	}
	return cmd
}

// untilEOF is a program for hold.
const untilEOF = "echo up; cat >/dev/null"

// onTerminal runs ssh on a terminal with these modes, and returns what it prints.
func (o *openSSH) onTerminal(t *testing.T, set func(*unix.Termios), size pty.Winsize, options []string, command ...string) string {
	t.Helper()
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	modes, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	set(modes)
	if err := errors.Join(unix.IoctlSetTermios(int(terminal.Fd()), unix.TCSETS, modes), pty.Setsize(terminal, &size)); err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	cmd := o.command(t, append([]string{"-tt"}, options...), command...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, &out, &said
	err = cmd.Run()
	terminal.Close()
	if err != nil {
		t.Fatalf("%v: %s%s", err, out.String(), said.String())
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n")
}

func TestTerminalOfOpenSSH(t *testing.T) {
	o := newOpenSSH(t)
	set := func(m *unix.Termios) {
		m.Cc[unix.VERASE], m.Cc[unix.VINTR], m.Cc[unix.VKILL] = 8, 24, 0
		m.Iflag = m.Iflag&^unix.IXON | unix.IUTF8
		m.Lflag &^= unix.ECHOCTL
		m.Oflag |= unix.OCRNL
	}
	got := o.onTerminal(t, set, pty.Winsize{Rows: 33, Cols: 101, X: 808, Y: 495}, nil,
		fmt.Sprintf("stty -a; stty size; %s=pixels %s", roleVariable, self(t)))
	for _, want := range []string{"erase = ^H;", "intr = ^X;", "kill = <undef>;", " -ixon ", "iutf8", " -echoctl ", " ocrnl", "\n33 101\n808 495\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTerminalTypes: a terminal that the image does not know becomes one that it knows.
func TestTerminalTypes(t *testing.T) {
	dir := t.TempDir()
	without, o := newOpenSSH(t), newOpenSSH(t)
	o.server.terminfo = []string{filepath.Join(dir, "none"), dir}
	for _, name := range []string{"x/xterm-256color", "73/screen-256color", "v/vt100", "d/dumb"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(o.home+"/.terminfo/m", 0o700), os.WriteFile(o.home+"/.terminfo/m/mine", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	check := func(o *openSSH, term, want string) {
		t.Helper()
		o.env[len(o.env)-1] = "TERM=" + term
		if got := o.onTerminal(t, func(*unix.Termios) {}, pty.Winsize{}, nil, "echo $TERM"); got != want+"\n" {
			t.Errorf("%s is %q, want %s", term, got, want)
		}
	}
	check(without, "xterm-ghostty", "xterm-ghostty")
	for term, want := range map[string]string{
		"xterm-ghostty": "xterm-256color", "xterm-kitty": "xterm-256color", "foot": "xterm-256color", "alacritty": "xterm-256color", "wezterm": "xterm-256color",
		"tmux-256color": "screen-256color", "screen-256color": "screen-256color", "vt100": "vt100", "dumb": "dumb", "mine": "mine",
		"../x/xterm-256color": "xterm-256color", ".": "xterm-256color",
	} {
		check(o, term, want)
	}
}

// TestEnvironmentOfOpenSSH: a login's own variables win over those of the client, and a
// locale that the image lacks is not taken.
func TestEnvironmentOfOpenSSH(t *testing.T) {
	o := newOpenSSH(t)
	o.server.route = route{client: "10.0.0.1", server: "10.0.0.2"}
	o.server.locales = filepath.Join(o.home, "locale")
	if err := os.MkdirAll(o.server.locales+"/fr_FR.utf8", 0o700); err != nil {
		t.Fatal(err)
	}
	o.env = append(o.env, "LC_ALL=de_DE.UTF-8", "LC_TIME=fr_FR.UTF-8", "LC_NUMERIC=POSIX", "COLORTERM=truecolor")
	options := []string{"-o", "SendEnv=LC_* COLORTERM HOME PATH",
		"-o", `SetEnv=LANG=it_IT.UTF-8 USER=other SHELL=/none LOGNAME=other MAIL=/none SSH_CLIENT=1 SSH_TTY=/none XDG_RUNTIME_DIR=/none GIVEN="a b"`}
	out, said, status := o.run(t, "", options, "env")
	if status != 0 || said != "" {
		t.Fatalf("exit %d: %s", status, said)
	}
	got := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		got[name] = value
	}
	for name, want := range map[string]string{
		"HOME": o.home, "USER": "tester", "LOGNAME": "tester", "SHELL": "/bin/sh", "MAIL": "/var/mail/tester",
		"PATH":       "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"SSH_CLIENT": "10.0.0.1 65535 22", "SSH_CONNECTION": "10.0.0.1 65535 10.0.0.2 22",
		"LANG": "C.UTF-8", "LC_TIME": "fr_FR.UTF-8", "LC_NUMERIC": "POSIX", "COLORTERM": "truecolor", "GIVEN": "a b",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"LC_ALL", "SSH_TTY", "TERM", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"} {
		if value, ok := got[name]; ok {
			t.Errorf("%s is %q", name, value)
		}
	}
}

// TestEditorsWay is how VS Code and JetBrains begin: a script over stdin leaves a server
// behind and ends; then come many forwards to it.
func TestEditorsWay(t *testing.T) {
	o := newOpenSSH(t)
	up := filepath.Join(o.home, "up")
	script := fmt.Sprintf("mkfifo %[1]s\n%[2]s=echo setsid nohup %[3]s %[1]s >server.log 2>&1 </dev/null &\n", up, roleVariable, self(t)) +
		"read server <" + up + "\necho $server\nexit 0\n"
	out, said, status := o.run(t, script, []string{"-T"}, "sh")
	var pid, port int
	if _, err := fmt.Sscan(out, &pid, &port); err != nil || pid < 2 || status != 0 {
		t.Fatalf("exit %d, %q, %v: %s", status, out, err, said)
	}
	defer unix.Kill(pid, unix.SIGKILL)
	local := filepath.Join(o.dir, "local")
	o.hold(t, []string{"-T", "-L", fmt.Sprintf("%s:127.0.0.1:%d", local, port)}, untilEOF)
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() {
			conn, err := net.Dial("unix", local)
			if err != nil {
				t.Error(err)
				return
			}
			checkEcho(t, conn)
		})
	}
	all.Wait()
	const alone = "one connection alone"
	if out, said, status := o.run(t, alone, []string{"-W", fmt.Sprintf("127.0.0.1:%d", port)}); out != alone || status != 0 {
		t.Errorf("exit %d, %q: %s", status, out, said)
	}
}

// TestOpenSSHStatuses: what ssh makes of a program's end.
func TestOpenSSHStatuses(t *testing.T) {
	o := newOpenSSH(t)
	for command, want := range map[string]int{"exit 0": 0, "exit 1": 1, "exit 37": 37, "exit 255": 255, "kill -9 $$": 255, "kill -40 $$": 255,
		"sh -c 'kill -9 $$'": 137, "(sleep 0.1; exit 3)": 3, "/no/such": 127} {
		if _, _, status := o.run(t, "", nil, command); status != want {
			t.Errorf("%s: exit %d, want %d", command, status, want)
		}
	}
}

// TestOpenSSHRekeys during a transfer in each direction.
func TestOpenSSHRekeys(t *testing.T) {
	o := newOpenSSH(t)
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	for _, limit := range []string{"16K", "default 1"} {
		out, said, status := o.run(t, string(data), []string{"-o", "RekeyLimit=" + limit}, "cat")
		if status != 0 || out != string(data) {
			t.Errorf("%s: exit %d, %d bytes of %d: %s", limit, status, len(out), len(data), said)
		}
	}
}

// TestOpenSSHHasNoFurtherSession: a client that will open none is held to it.
func TestOpenSSHHasNoFurtherSession(t *testing.T) {
	g := newSSHGuest(t)
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.NewSession(); err != nil {
		t.Fatal(err)
	}
	if ok, _, err := client.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
	if _, _, err := client.SendRequest("no-more-sessions@openssh.com", true, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := client.NewSession(); err == nil {
		t.Error("a further session was opened")
	}
}

// TestOpenSSHSendsNoMore: a client learns that a program has closed its input, and need
// not read its own.
func TestOpenSSHSendsNoMore(t *testing.T) {
	o := newOpenSSH(t)
	fifo := filepath.Join(o.home, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := o.command(t, []string{"-v"}, "exec <&-; read word <"+fifo+"; echo $word")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout = strings.NewReader(strings.Repeat("x", 1<<20)), &out
	said, err := cmd.StderrPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	after(t, said, "rtype eow@openssh.com ")
	if err := os.WriteFile(fifo, []byte("end\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || out.String() != "end\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// after returns the word after a text in what ssh says, once it is complete.
func after(t *testing.T, said io.Reader, text string) string {
	t.Helper()
	var all strings.Builder
	buf := make([]byte, 4096)
	for {
		if _, rest, ok := strings.Cut(all.String(), text); ok && strings.ContainsAny(rest, " \n") {
			go io.Copy(io.Discard, said)
			return strings.Fields(rest)[0]
		}
		n, err := said.Read(buf)
		if err != nil {
			t.Fatalf("%v: %s", err, all.String())
		}
		all.Write(buf[:n])
	}
}

// TestSFTPOfTheImage: an image's own server of files is used if it can start. It knows
// what ssh's clients ask for beyond the protocol.
func TestSFTPOfTheImage(t *testing.T) {
	dir := t.TempDir()
	lacks, barred := filepath.Join(dir, "lacks"), filepath.Join(dir, "barred")
	if err := errors.Join(os.WriteFile(lacks, []byte("#!/no/such/shell\n"), 0o700), os.WriteFile(barred, []byte("#!/bin/sh\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	copies := func(sftp ...string) (string, error) {
		o := newOpenSSH(t)
		o.server.sftp = sftp
		cmd := o.client(t, "sftp", []string{"-q", "-b", "-"})
		cmd.Stdin = strings.NewReader("put id one\ncp one two\n")
		out, err := cmd.CombinedOutput()
		if err == nil && read(t, filepath.Join(o.home, "two")) != read(t, filepath.Join(o.dir, "id")) {
			err = errors.New("the copy is another file")
		}
		return string(out), err
	}
	none := []string{dir, filepath.Join(dir, "none"), lacks, barred}
	if out, err := copies(none...); err == nil || !strings.Contains(out, "does not support") {
		t.Errorf("without one of the image's: %v: %s", err, out)
	}
	here := findSFTP(sftpServers)
	if here == "" {
		t.Skip("this host has no sftp-server: apt-get install openssh-sftp-server")
	}
	if out, err := copies(append(none, here)...); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
