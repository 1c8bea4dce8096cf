package guest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"banger"
	"banger/internal/guest/wire"
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
	Started        func() error     // called once the program runs, before any data is copied; may be nil
	Waiting        func(before int) // called again and again while the guest lets others log in first; may be nil
	Key            []byte           // a private key that the guest lets in; without it, the user's
}

// Exec runs a program in vm over conn, a stream to its SSH port, and returns
// the program's exit status; for a program ended by a signal, 128 plus the signal's
// number. An error means that the program did not run, or that its end is not known.
// Cancelling ctx ends the connection, and with it the program. So does output that
// cannot be written. Once the program has ended, a signal ends the wait for its output:
// the status is 128 plus that signal's number.
func Exec(ctx context.Context, conn net.Conn, vm banger.VM, program wire.Exec, s Session) (int, error) {
	signer, err := s.signer(vm)
	if err != nil {
		conn.Close()
		return 0, err
	}
	client, err := dialSSHWith(ctx, &patient{Conn: conn, waiting: s.Waiting}, vm, "root", signer)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()
	channel, requests, err := begin(client, vm, program, s.TTY)
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

func (s Session) signer(vm banger.VM) (ssh.Signer, error) {
	if len(s.Key) > 0 {
		return ssh.ParsePrivateKey(s.Key)
	}
	return userSigner(vm)
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
	own, ok := conn.(*patient)
	if !ok {
		own = &patient{Conn: conn}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(own, HostAlias(vm.ID)+":22", &ssh.ClientConfig{
		User: user,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: func(host string, _ net.Addr, key ssh.PublicKey) error {
			return known(host, nowhere{}, key)
		},
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		ClientVersion:     "SSH-2.0-banger",
	})
	if !stop() && err == nil {
		err = ctx.Err() // the connection is closed, or about to be
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("log in to the guest: %w", own.why(ctx, err))
	}
	own.over()
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

func begin(client *ssh.Client, vm banger.VM, program wire.Exec, tty *TTY) (ssh.Channel, <-chan *ssh.Request, error) {
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open a session: %w", lost(client, err))
	}
	if tty != nil {
		request := struct {
			Term                      string
			Cols, Rows, Width, Height uint32
			Modes                     string
		}{tty.Term, uint32(tty.Cols), uint32(tty.Rows), uint32(tty.Width), uint32(tty.Height), tty.Modes}
		if ok, err := channel.SendRequest("pty-req", true, ssh.Marshal(request)); err != nil || !ok {
			return nil, nil, fmt.Errorf("give a terminal: %w", lost(client, cmp.Or(err, errRefused)))
		}
	}
	if err := request(channel, vm, program); err != nil {
		return nil, nil, fmt.Errorf("run a program: %w", lost(client, err))
	}
	return channel, requests, nil
}

// request asks for a program, in as many parts as it takes.
func request(channel ssh.Channel, vm banger.VM, program wire.Exec) error {
	payload, err := json.Marshal(program)
	if err != nil {
		return err
	}
	if len(payload) > wire.MaxExec {
		return &banger.Error{Kind: banger.Invalid, Why: fmt.Errorf("%w: Linux takes at most 6 MiB of arguments and environment", syscall.E2BIG),
			Fix: "send the data through stdin"}
	}
	kind := wire.ExecPartRequest
	for part := range slices.Chunk(payload, wire.MaxExecPart) {
		if payload = payload[len(part):]; len(payload) == 0 {
			kind = wire.ExecRequest
		}
		ok, err := channel.SendRequest(kind, true, part)
		if err != nil {
			return err
		}
		if !ok && kind == wire.ExecPartRequest {
			return &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("the VM's agent is older than this banger, and takes at most %d bytes of arguments", wire.MaxExecPart*3/4),
				Fix: "banger vm restart " + vm.Name}
		}
		if !ok {
			return errRefused
		}
	}
	return nil
}

var (
	errRefused = errors.New("the agent refused")
	errLost    = errors.New("the connection to the guest ended")
)

// lost replaces the error of a connection that has ended, which package ssh does not
// name.
func lost(client io.Closer, err error) error {
	refused, known := (*ssh.OpenChannelError)(nil), (*banger.Error)(nil)
	if errors.Is(err, errRefused) || errors.As(err, &refused) || errors.As(err, &known) {
		return err
	}
	client.Close()
	return errLost
}

// attend copies the session's data until the program has ended and all of its output
// has arrived.
func attend(ctx context.Context, giveUp context.CancelCauseFunc, channel ssh.Channel, requests <-chan *ssh.Request, s Session) (int, error) {
	ended, exited := make(chan struct{}), make(chan struct{})
	defer close(ended)
	go send(channel, s, exited, ended, giveUp)
	copied := make(chan error, 2)
	receive := func(to io.Writer, from io.Reader) {
		_, err := io.Copy(output{to, giveUp}, from)
		copied <- err
	}
	go receive(s.Stdout, channel)
	go receive(s.Stderr, channel.Stderr())
	status, known := 0, false
	for request := range requests {
		if code, ok := exitOf(request); ok && !known {
			status, known = code, true
			close(exited)
		}
		if request.WantReply {
			request.Reply(false, nil)
		}
	}
	err := errors.Join(within(ctx, copied), within(ctx, copied))
	var ending *endedBy
	switch {
	case errors.As(context.Cause(ctx), &ending):
		return 128 + int(ending.signal), nil
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

// endedBy is the signal that ended the wait for the output of a program that has ended.
type endedBy struct{ signal syscall.Signal }

func (e *endedBy) Error() string { return "ended by " + e.signal.String() }

// send sends what the host has for the program: input, sizes and signals. After exited, the
// first signal ends the session.
func send(channel ssh.Channel, s Session, exited, ended <-chan struct{}, giveUp context.CancelCauseFunc) {
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
			number, _ := signal.(syscall.Signal)
			select {
			case <-exited:
				giveUp(&endedBy{number})
			default:
				channel.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{signalName(number)}))
			}
		case <-ended:
			return
		}
	}
}
