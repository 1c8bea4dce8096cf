package cli

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
)

// sshGuest is a guest whose SSH server calls run for every program.
type sshGuest struct {
	config *ssh.ServerConfig
	vm     banger.VM
	tty    string // the terminal that was requested
	modes  string
	asked  func() // if set, called instead of answering a request to run a program
	run    func(program wire.Exec, channel ssh.Channel, requests <-chan *ssh.Request) uint32
}

func newGuest(t *testing.T, name string) *sshGuest {
	t.Helper()
	dir := t.TempDir()
	vm := aVM(name, banger.Running)
	vm.SSHKey, vm.KnownHosts = filepath.Join(dir, "id"), filepath.Join(dir, "known_hosts")
	if _, err := guest.UserKey(vm.SSHKey); err != nil {
		t.Fatal(err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := guest.AddKnownHost(vm.KnownHosts, vm.ID, name, string(ssh.MarshalAuthorizedKey(signer.PublicKey()))); err != nil {
		t.Fatal(err)
	}
	g := &sshGuest{vm: vm, config: &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}}
	g.config.AddHostKey(signer)
	return g
}

func (g *sshGuest) dial(banger.VM) (net.Conn, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, err
	}
	guest, err := listener.Accept() // before the listener is closed, which would reset the connection
	if err != nil {
		return nil, err
	}
	go g.serve(guest)
	return conn, nil
}

func (g *sshGuest) serve(conn net.Conn) {
	_, channels, global, err := ssh.NewServerConn(conn, g.config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(global)
	for request := range channels {
		channel, requests, err := request.Accept()
		if err != nil {
			return
		}
		for request := range requests {
			if request.Type == "pty-req" {
				var asked struct {
					Term                      string
					Cols, Rows, Width, Height uint32
					Modes                     string
				}
				ssh.Unmarshal(request.Payload, &asked)
				g.tty = fmt.Sprintf("%s %dx%d %dx%d", asked.Term, asked.Cols, asked.Rows, asked.Width, asked.Height)
				g.modes = asked.Modes
			}
			if request.Type != wire.ExecRequest {
				request.Reply(true, nil)
				continue
			}
			if g.asked != nil {
				g.asked()
				continue
			}
			var program wire.Exec
			ok := json.Unmarshal(request.Payload, &program) == nil
			request.Reply(ok, nil)
			status := g.run(program, channel, requests)
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
			channel.Close()
		}
	}
}

func TestExecPassesEverythingThrough(t *testing.T) {
	g := newGuest(t, "otter")
	var got wire.Exec
	g.run = func(program wire.Exec, channel ssh.Channel, _ <-chan *ssh.Request) uint32 {
		got = program
		text, _ := io.ReadAll(channel)
		fmt.Fprintf(channel, "read %q\n", text)
		fmt.Fprintf(channel.Stderr(), "warned\n")
		return 7
	}
	f := newFake(g.vm)
	f.guest = g.dial
	f.run(t, setup{in: "from stdin"}, "vm", "exec", "--user", "nobody", "-w", "/tmp", "-e", "A=1", "--env", "EMPTY", "-e", "UNSET", "otter", "--", "sh", "-c", "a 'b' \"c\"\n\xff", "--json").
		want(t, 7, "read \"from stdin\"\n", "warned\n")
	want := wire.Exec{User: "nobody", Workdir: []byte("/tmp"), Env: bytesOf([]string{"A=1", "EMPTY="}), Argv: bytesOf([]string{"sh", "-c", "a 'b' \"c\"\n\xff", "--json"})}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	f.run(t, setup{in: "unread"}, "vm", "exec", "--no-stdin", "otter", "true").want(t, 7, "read \"\"\n", "warned\n")
}

// TestExecTooEarly: a program that fails while services still start is no riddle.
func TestExecTooEarly(t *testing.T) {
	g := newGuest(t, "otter")
	status := uint32(1)
	g.run = func(_ wire.Exec, channel ssh.Channel, _ <-chan *ssh.Request) uint32 {
		fmt.Fprintln(channel.Stderr(), "Cannot connect")
		return status
	}
	g.vm.State = banger.Booting
	f := newFake(g.vm)
	f.guest = g.dial
	const note = "note: services of otter were still starting; this waits for them: banger vm wait otter\n"
	f.run(t, setup{}, "vm", "exec", "otter", "docker", "ps").want(t, 1, "", "Cannot connect\n"+note)
	f.made = g.vm
	if r := f.run(t, setup{}, "vm", "run", "--name", "otter2", "docker", "ps"); r.code != 1 || r.errOut != "Cannot connect\n"+note {
		t.Errorf("%+v", r)
	}
	status = 0
	f.run(t, setup{}, "vm", "exec", "otter", "docker", "ps").want(t, 0, "", "Cannot connect\n")
	g.vm.State, status = banger.Running, 1
	f = newFake(g.vm)
	f.guest = g.dial
	f.run(t, setup{}, "vm", "exec", "otter", "docker", "ps").want(t, 1, "", "Cannot connect\n")
}

func TestExecForwardsSignals(t *testing.T) {
	g := newGuest(t, "otter")
	signals := make(chan os.Signal, 1)
	g.run = func(_ wire.Exec, channel ssh.Channel, requests <-chan *ssh.Request) uint32 {
		io.ReadAll(channel) // the client knows by now that its program runs
		signals <- syscall.SIGTERM
		request := <-requests
		if request.Type != "signal" {
			return 1
		}
		return 143
	}
	f := newFake(g.vm)
	f.guest = g.dial
	f.run(t, setup{signals: signals}, "vm", "exec", "otter", "--", "sleep", "60").want(t, 143, "", "")
}

func TestExecCanBeInterruptedInAGuestThatHangs(t *testing.T) {
	signals := make(chan os.Signal, patience)
	g := newGuest(t, "otter")
	f := newFake(g.vm)
	f.guest = g.dial
	interrupted := "banger: exec in VM \"otter\": interrupted\nfix: banger vm show otter\n"

	g.asked = func() { signals <- syscall.SIGINT }
	f.run(t, setup{signals: signals}, "vm", "exec", "otter", "--", "true").want(t, 130, "", interrupted)

	g.asked = nil
	g.run = func(_ wire.Exec, channel ssh.Channel, requests <-chan *ssh.Request) uint32 {
		io.ReadAll(channel)
		for range patience {
			signals <- syscall.SIGTERM
		}
		for range requests { // until the connection ends
		}
		return 0
	}
	f.run(t, setup{signals: signals}, "vm", "exec", "otter", "--", "sleep", "60").want(t, 130, "", interrupted)
}

func TestIgnoredSignalsStayIgnored(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	signals := make(chan os.Signal, 1)
	notify(signals)
	defer signal.Stop(signals)
	if !signal.Ignored(syscall.SIGHUP) {
		t.Error("a hangup ends what nohup began")
	}
	syscall.Kill(os.Getpid(), syscall.SIGQUIT)
	if sig := <-signals; sig != syscall.SIGQUIT {
		t.Errorf("got %v", sig)
	}
}

func TestExecWithATerminal(t *testing.T) {
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	defer terminal.Close()
	if err := pty.Setsize(terminal, &pty.Winsize{Cols: 100, Rows: 30, X: 900, Y: 480}); err != nil {
		t.Fatal(err)
	}
	fd := int(terminal.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	before.Cc[unix.VERASE] = 8
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, before); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, "otter")
	g.run = func(_ wire.Exec, channel ssh.Channel, requests <-chan *ssh.Request) uint32 {
		channel.Read(make([]byte, 1)) // a key arrives without the end of the line
		during, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil || during.Lflag&unix.ICANON != 0 {
			t.Errorf("the terminal is not raw: %v", err)
		}
		pty.Setsize(terminal, &pty.Winsize{Cols: 120, Rows: 40})
		syscall.Kill(os.Getpid(), syscall.SIGWINCH)
		request := <-requests
		fmt.Fprintf(channel, "%s %v", request.Type, request.Payload[:8])
		return 3
	}
	f := newFake(g.vm)
	f.guest = g.dial
	keyboard.Write([]byte("q"))
	f.run(t, setup{stdin: terminal, tty: true}, "vm", "exec", "-it", "otter", "--", "top").
		want(t, 3, "window-change [0 0 0 120 0 0 0 40]", "")
	if g.tty != "xterm 100x30 900x480" || g.modes != wire.TerminalModes(before) {
		t.Errorf("asked for %q with modes %q", g.tty, g.modes)
	}
	if after, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the terminal was not restored: %v", err)
	}
}

// full is a file on a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestExecEndsWhenItsOutputCannotBeWritten(t *testing.T) {
	g := newGuest(t, "otter")
	g.run = func(_ wire.Exec, channel ssh.Channel, _ <-chan *ssh.Request) uint32 {
		for { // until nobody reads any more
			if _, err := channel.Write(make([]byte, 1<<20)); err != nil {
				return 0
			}
		}
	}
	f := newFake(g.vm)
	f.guest = g.dial
	r := f.run(t, setup{stdout: full{}}, "vm", "exec", "otter", "--", "tar", "-c", ".")
	if r.code != 125 || !strings.Contains(r.errOut, "write the program's output: no space left on device") {
		t.Errorf("%+v", r)
	}
}

// TestExecWithAKeyInAnAgent: exec cannot use an agent, so the error names ssh, which can.
func TestExecWithAKeyInAnAgent(t *testing.T) {
	g := newGuest(t, "otter")
	g.vm.SSHKey += ".elsewhere"
	f := newFake(g.vm)
	f.guest = g.dial
	r := f.run(t, setup{}, "vm", "exec", "otter", "--", "true")
	if r.code != 125 || !strings.Contains(r.errOut, "fix: banger vm ssh otter -- command") {
		t.Errorf("%+v", r)
	}
}

func TestATerminalIsForProgramsThatWriteToOne(t *testing.T) {
	a := &app{std: Std{InTTY: true, OutTTY: false}}
	if _, err := a.program([]string{"top"}, execOptions{tty: true}); banger.KindOf(err) != banger.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestOwnFailuresOfExecAre125(t *testing.T) {
	f := newFake(aVM("otter", banger.Running))
	f.guest = func(banger.VM) (net.Conn, error) {
		return nil, &banger.Error{Kind: banger.TimedOut, What: "dial VM \"otter\"", Why: io.ErrUnexpectedEOF}
	}
	for _, args := range [][]string{
		{"vm", "exec"}, {"vm", "exec", "otter"}, {"vm", "exec", "otter", "--"}, {"vm", "exec", "--bogus", "otter", "ls"},
		{"vm", "exec", "nobody", "--", "ls"}, {"vm", "exec", "otter", "--", "ls"}, {"vm", "exec", "-t", "otter", "--", "ls"},
		{"vm", "exec", "-e", "=x", "otter", "ls"}, {"vm", "run", "--name", "otter", "--", "ls"}, {"vm", "run", "--memory", "none"},
	} {
		if r := f.run(t, setup{}, args...); r.code != 125 || r.out != "" || r.errOut == "" {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

func TestRunDeletesWithRM(t *testing.T) {
	g := newGuest(t, "otter")
	g.run = func(program wire.Exec, channel ssh.Channel, _ <-chan *ssh.Request) uint32 {
		fmt.Fprintf(channel, "%s\n", program.Argv[0])
		return 9
	}
	f := newFake()
	f.guest = func(vm banger.VM) (net.Conn, error) { return g.dial(vm) }
	// The new VM must have keys that the guest knows.
	f.made = g.vm
	f.run(t, setup{}, "vm", "run", "--rm", "--name", "otter", "--", "uname").want(t, 9, "uname\n", "")
	if len(f.vms) != 0 {
		t.Errorf("left %v", f.vms)
	}
	f.run(t, setup{}, "vm", "run", "--name", "otter", "uname").want(t, 9, "uname\n", "")
	if len(f.vms) != 1 {
		t.Errorf("left %v", f.vms)
	}
}
