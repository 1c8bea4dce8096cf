package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/linux"
)

// Size is a terminal's size in character cells, and in pixels if that is known.
type Size struct{ Cols, Rows, Width, Height int }

// TTY asks for a terminal in the guest.
type TTY struct {
	Term  string
	Modes string // as wire.TerminalModes returns them
	Size
	Resize <-chan Size
}

// Session connects a program to the host: its input and output, terminal and signals.
type Session struct {
	Stdin          io.Reader // nil: the program reads an end of file at once
	Stdout, Stderr io.Writer
	TTY            *TTY // nil: no terminal
	Signals        <-chan os.Signal
	Started        func() error // called once the program runs, before any data is copied; may be nil
}

// Exec runs a program in vm over conn, a stream to its SSH port, and returns
// the program's exit status; for a program ended by a signal, 128 plus the signal's
// number. An error means that the program did not run, or that its end is not known.
// Cancelling ctx ends the connection, and with it the program. So does output that
// cannot be written.
func Exec(ctx context.Context, conn net.Conn, vm banger.VM, program wire.Exec, s Session) (int, error) {
	client, err := dialSSH(ctx, conn, vm)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	channel, requests, err := begin(client, program, s.TTY)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err == nil && s.Started != nil {
		err = s.Started()
	}
	if err != nil {
		return 0, err
	}
	return attend(ctx, giveUp, channel, requests, s)
}

// dialSSH logs in with the user's key.
func dialSSH(ctx context.Context, conn net.Conn, vm banger.VM) (*ssh.Client, error) {
	return dialSSHAs(ctx, conn, vm, "root")
}

func dialSSHAs(ctx context.Context, conn net.Conn, vm banger.VM, user string) (*ssh.Client, error) {
	signer, err := userSigner(vm)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return dialSSHWith(ctx, conn, vm, user, signer)
}

func userSigner(vm banger.VM) (ssh.Signer, error) {
	signer, err := readSigner(vm.SSHKey)
	if err != nil {
		return nil, &banger.Error{Kind: banger.Invalid, What: "read SSH key " + vm.SSHKey, Why: err,
			Fix: fmt.Sprintf("banger vm ssh %s -- command (ssh can ask for a passphrase and use an agent)", vm.Name)}
	}
	return signer, nil
}

// dialSSHWith logs in with a key.
func dialSSHWith(ctx context.Context, conn net.Conn, vm banger.VM, user string, signer ssh.Signer) (*ssh.Client, error) {
	known, err := knownhosts.New(vm.KnownHosts)
	if err != nil {
		return nil, fmt.Errorf("read known hosts: %w", err)
	}
	stop := linux.InterruptAfter(ctx, conn)
	defer stop()
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	c, channels, requests, err := ssh.NewClientConn(conn, HostAlias(vm.ID)+":22", &ssh.ClientConfig{
		User: user,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: func(host string, _ net.Addr, key ssh.PublicKey) error {
			return known(host, nowhere{}, key)
		},
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		ClientVersion:     "SSH-2.0-banger",
	})
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("log in to the guest: %w", err)
	}
	conn.SetDeadline(time.Time{})
	return ssh.NewClient(c, channels, requests), nil
}

func readSigner(path string) (ssh.Signer, error) {
	private, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(private)
}

// nowhere is the address of a stream that has none; knownhosts wants one.
type nowhere struct{}

func (nowhere) Network() string { return "banger" }
func (nowhere) String() string  { return "0.0.0.0:0" }

func begin(client *ssh.Client, program wire.Exec, tty *TTY) (ssh.Channel, <-chan *ssh.Request, error) {
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open a session: %w", err)
	}
	if tty != nil {
		request := struct {
			Term                      string
			Cols, Rows, Width, Height uint32
			Modes                     string
		}{tty.Term, uint32(tty.Cols), uint32(tty.Rows), uint32(tty.Width), uint32(tty.Height), tty.Modes}
		if ok, err := channel.SendRequest("pty-req", true, ssh.Marshal(request)); err != nil || !ok {
			return nil, nil, refused("give a terminal", err)
		}
	}
	payload, err := json.Marshal(program)
	if err != nil {
		return nil, nil, err
	}
	if ok, err := channel.SendRequest(wire.ExecRequest, true, payload); err != nil || !ok {
		return nil, nil, refused("run a program", err)
	}
	return channel, requests, nil
}

func refused(what string, err error) error {
	if err == nil {
		err = errors.New("the agent refused")
	}
	return fmt.Errorf("%s: %w", what, err)
}

// attend copies the session's data until the program has ended and all of its output
// has arrived.
func attend(ctx context.Context, giveUp context.CancelCauseFunc, channel ssh.Channel, requests <-chan *ssh.Request, s Session) (int, error) {
	ended := make(chan struct{})
	defer close(ended)
	go send(channel, s, ended)
	copied := make(chan error, 2)
	receive := func(to io.Writer, from io.Reader) {
		_, err := io.Copy(output{to, giveUp}, from)
		copied <- err
	}
	go receive(s.Stdout, channel)
	go receive(s.Stderr, channel.Stderr())
	status, known := 0, false
	for request := range requests {
		if code, ok := exitOf(request); ok {
			status, known = code, true
		}
		if request.WantReply {
			request.Reply(false, nil)
		}
	}
	err := errors.Join(within(ctx, copied), within(ctx, copied))
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case !known:
		return 0, errors.New("the connection ended before the program did")
	case err != nil:
		return status, fmt.Errorf("read the program's output: %w", err)
	}
	return status, nil
}

// within waits for the end of a copy. ctx ends the wait: the copy may go to a pipe
// that nobody reads.
func within(ctx context.Context, copied <-chan error) error {
	select {
	case err := <-copied:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// output ends the program if its output cannot be written: it would wait for ever.
type output struct {
	io.Writer
	giveUp context.CancelCauseFunc
}

func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.giveUp(fmt.Errorf("write the program's output: %w", err))
	}
	return n, err
}

func send(channel ssh.Channel, s Session, ended <-chan struct{}) {
	go func() {
		if s.Stdin != nil {
			io.Copy(channel, s.Stdin)
		}
		channel.CloseWrite()
	}()
	var resize <-chan Size
	if s.TTY != nil {
		resize = s.TTY.Resize
	}
	for {
		select {
		case size := <-resize:
			channel.SendRequest("window-change", false, ssh.Marshal(struct{ Cols, Rows, Width, Height uint32 }{uint32(size.Cols), uint32(size.Rows), uint32(size.Width), uint32(size.Height)}))
		case signal := <-s.Signals:
			if name, ok := signalNames[signal]; ok {
				channel.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{name}))
			}
		case <-ended:
			return
		}
	}
}

// signalNames are the names of RFC 4254, section 6.10.
var signalNames = map[os.Signal]string{
	syscall.SIGINT: "INT", syscall.SIGTERM: "TERM", syscall.SIGHUP: "HUP", syscall.SIGQUIT: "QUIT",
	syscall.SIGUSR1: "USR1", syscall.SIGUSR2: "USR2", syscall.SIGKILL: "KILL", syscall.SIGABRT: "ABRT",
	syscall.SIGALRM: "ALRM", syscall.SIGPIPE: "PIPE", syscall.SIGSEGV: "SEGV", syscall.SIGFPE: "FPE", syscall.SIGILL: "ILL",
}

func exitOf(request *ssh.Request) (int, bool) {
	switch request.Type {
	case "exit-status":
		var exit struct{ Status uint32 }
		if ssh.Unmarshal(request.Payload, &exit) == nil {
			return int(exit.Status), true
		}
	case "exit-signal":
		var exit struct {
			Signal   string
			Core     bool
			Message  string
			Language string
		}
		if ssh.Unmarshal(request.Payload, &exit) != nil {
			return 0, false
		}
		for signal, name := range signalNames {
			if name == exit.Signal {
				return 128 + int(signal.(syscall.Signal)), true
			}
		}
		return 128, true
	}
	return 0, false
}
