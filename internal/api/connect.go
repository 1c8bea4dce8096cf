package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/detach"
	"banger/internal/linux"
)

// ConnectOptions says how to connect to the daemon. The zero value starts it if it
// does not run.
type ConnectOptions struct {
	NoStart bool          // do not start a daemon: if none runs, the error is NotFound
	Program string        // the bangerd to start; default: beside this program, else in PATH
	Env     []string      // its environment, which must lead to the same directories; nil: what it needs of this program's
	Waiting func(pid int) // called once if the daemon has not answered after two seconds; may be nil

	patience time.Duration // instead of two seconds, in tests
}

// readyFD is the descriptor on which a started daemon reports.
const readyFD = 3

// attempts bounds how often Connect tries again when the daemon ends meanwhile.
const attempts = 3

// patience is how long Connect waits before it calls Waiting.
const patience = 2 * time.Second

// Connect returns a client of the daemon of dirs.State, wherever it listens. It
// starts the daemon if none runs; several clients at the same time get the same
// daemon. It returns once the daemon serves.
func Connect(ctx context.Context, dirs config.Dirs, opts ConnectOptions) (*Client, error) {
	defer opts.tellWaiting(dirs)()
	var c *Client
	var err error
	for range attempts {
		c, err = find(ctx, dirs)
		if err == nil || opts.NoStart || banger.KindOf(err) != banger.NotFound {
			return c, err
		}
		var socket string
		if socket, err = start(ctx, dirs, opts); err != nil {
			return nil, err
		}
		c, err = serving(ctx, socket, dirs)
		if err == nil || banger.KindOf(err) != banger.NotFound {
			return c, err
		}
	}
	return nil, mute(dirs, err)
}

// tellWaiting calls Waiting unless stop is called early enough.
func (o ConnectOptions) tellWaiting(dirs config.Dirs) (stop func()) {
	if o.Waiting == nil {
		return func() {}
	}
	told := make(chan struct{})
	timer := time.AfterFunc(cmp.Or(o.patience, patience), func() {
		defer close(told)
		if record, err := ReadRecord(dirs.DaemonLock()); err == nil {
			o.Waiting(record.PID)
		}
	})
	return func() {
		if !timer.Stop() {
			<-told
		}
	}
}

// mute returns the error for a daemon that holds the state directory but cannot be
// reached.
func mute(dirs config.Dirs, err error) error {
	record, failed := ReadRecord(dirs.DaemonLock())
	if failed != nil {
		return err
	}
	return &banger.Error{
		Kind: banger.Conflict, What: "talk to the daemon",
		Why: fmt.Errorf("bangerd (pid %d) uses %s but cannot be reached: %w", record.PID, dirs.State, errors.Unwrap(err)),
		Fix: fmt.Sprintf("kill %d, then run the command again: VMs keep running", record.PID),
	}
}

// find looks for the daemon where its record says, and then at the usual place.
func find(ctx context.Context, dirs config.Dirs) (*Client, error) {
	if record, err := ReadRecord(dirs.DaemonLock()); err == nil && record.Socket != "" && record.Socket != dirs.Socket() {
		c, err := serving(ctx, record.Socket, dirs)
		if err == nil || ctx.Err() != nil {
			return c, err
		}
	}
	return serving(ctx, dirs.Socket(), dirs)
}

// serving returns a client of the daemon at socket, once the daemon serves. The
// error is NotFound if that daemon has another state directory, or ends.
func serving(ctx context.Context, socket string, dirs config.Dirs) (*Client, error) {
	c, err := Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	d, err := c.Daemon(ctx)
	switch {
	case err == nil && sameDir(d.State, dirs.State):
		return c, nil
	case err == nil:
		err = noDaemon(socket, fmt.Errorf("the daemon there uses the state directory %s", d.State))
	case ctx.Err() == nil && banger.KindOf(err) == banger.Unknown:
		err = noDaemon(socket, errors.Unwrap(err)) // it ended while we waited
	}
	c.Close()
	return nil, err
}

func sameDir(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// start starts a daemon in a session of its own, waits for its report and returns
// its socket. If another daemon was faster, it returns the socket of that one.
func start(ctx context.Context, dirs config.Dirs, opts ConnectOptions) (string, error) {
	fail := func(err error) (string, error) { return "", &banger.Error{What: "start the daemon", Why: err} }
	program, err := locate(opts.Program)
	if err != nil {
		return fail(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	cmd := exec.Command(program, "--ready-fd", strconv.Itoa(readyFD))
	if cmd.Env = opts.Env; cmd.Env == nil {
		cmd.Env = detach.Environ(os.Environ())
	}
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close() // only the daemon holds it now: if the daemon dies, the pipe ends
	if err != nil {
		return fail(err)
	}
	defer linux.InterruptAfter(ctx, r)()
	said, err := readReady(r)
	if err == nil && said.Error == nil {
		return said.Socket, cmd.Process.Release()
	}
	if ctx.Err() != nil {
		cmd.Process.Release() // it continues to start, for the next client
		return fail(ctx.Err())
	}
	cmd.Wait() // it has ended, or is about to
	if said.Socket != "" {
		return said.Socket, nil
	}
	if said.Error != nil {
		if said.Error.Kind == banger.Unknown && said.Error.Fix == "" {
			said.Error.Fix = "read " + dirs.Log()
		}
		return fail(said.Error.err())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = &banger.Error{Why: errors.New("bangerd ended before it was ready"), Fix: "read " + dirs.Log()}
	}
	return fail(err)
}

// Program returns the bangerd that Connect starts: beside this program, else in PATH.
func Program() (string, error) { return locate("") }

func locate(program string) (string, error) {
	if program != "" {
		return program, nil
	}
	if exe, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(exe), "bangerd"); isProgram(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath("bangerd")
	if err != nil {
		return "", &banger.Error{Kind: banger.Unready, Why: errors.New("bangerd is not installed: it is neither next to banger nor in PATH"), Fix: "make build, or make install"}
	}
	return path, nil
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// ready is the one line that a daemon writes once it has started, or failed to.
type ready struct {
	Socket string     `json:"socket,omitempty"`
	Error  *wireError `json:"error,omitempty"`
}

// WriteReady tells the client that started this daemon whether it serves. With an
// error, socket is where another daemon of the same state directory listens, if
// there is one.
func WriteReady(w io.Writer, socket string, err error) error {
	said := ready{Socket: socket}
	if err != nil {
		said.Error = takeApart(err)
	}
	return json.NewEncoder(w).Encode(said)
}

func readReady(r io.Reader) (said ready, err error) {
	err = json.NewDecoder(io.LimitReader(r, maxBody)).Decode(&said)
	return said, err
}
