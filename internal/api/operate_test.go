package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger"
)

// undoing returns a daemon whose operations wait until they are cancelled, and then
// undo until let is called.
func undoing(events ...banger.Step) (f *fake, let func()) {
	allowed := make(chan struct{})
	f = &fake{events: events, block: make(chan struct{}), unwound: make(chan error, 1)}
	f.undo = func(p banger.Progress) {
		p.Send(banger.Step{Step: "undo"})
		<-allowed
	}
	return f, func() { close(allowed) }
}

func TestCancelledClientsWaitForTheUndo(t *testing.T) {
	for name, call := range map[string]func(context.Context, *Client, banger.Progress) error{
		"create": func(ctx context.Context, c *Client, p banger.Progress) error {
			_, err := c.CreateVM(ctx, banger.CreateVM{Name: "otter"}, p)
			return err
		},
		"start": func(ctx context.Context, c *Client, p banger.Progress) error {
			_, err := c.StartVM(ctx, "otter", banger.StartVM{}, p)
			return err
		},
		"stop": func(ctx context.Context, c *Client, p banger.Progress) error {
			_, err := c.StopVM(ctx, "otter", banger.StopVM{}, p)
			return err
		},
		"restart": func(ctx context.Context, c *Client, p banger.Progress) error {
			_, err := c.RestartVM(ctx, "otter", banger.StopVM{}, p)
			return err
		},
		"delete": func(ctx context.Context, c *Client, p banger.Progress) error {
			return c.DeleteVM(ctx, "otter", banger.DeleteVM{}, p)
		},
	} {
		for _, events := range [][]banger.Step{nil, {{Step: "boot"}}} {
			t.Run(name, func(t *testing.T) { cancelledClientWaits(t, call, events) })
		}
	}
}

func cancelledClientWaits(t *testing.T, call func(context.Context, *Client, banger.Progress) error, events []banger.Step) {
	f, let := undoing(events...)
	c, _ := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- call(ctx, c, func(e banger.Step) {
			if e.Step == "undo" {
				close(told)
			}
		})
	}()
	<-f.block
	cancel()
	select {
	case <-told: // the client still gets steps after it was cancelled
	case err := <-ended:
		let()
		t.Fatalf("the client did not wait: %v", err)
	}
	let()
	err := <-ended
	select {
	case saw := <-f.unwound:
		if !errors.Is(saw, context.Canceled) {
			t.Errorf("the operation saw %v", saw)
		}
	default:
		t.Error("the client came back before the undo was done")
	}
	if banger.KindOf(err) != banger.Canceled {
		t.Errorf("the client saw %v (%s)", err, banger.KindOf(err))
	}
}

func TestWaitForTheUndoIsBounded(t *testing.T) {
	f, let := undoing()
	c, _ := serve(t, f)
	defer let()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-f.block
		cancel()
	}()
	err := c.operateFor(ctx, 20*time.Millisecond, "/vms", banger.CreateVM{}, nil, nil)
	if banger.KindOf(err) != banger.Canceled || !strings.Contains(err.Error(), "still undoing") || banger.FixOf(err) == "" {
		t.Errorf("got %v (%s), fix %q", err, banger.KindOf(err), banger.FixOf(err))
	}
}

func TestDeadlinesAreToldFromInterrupts(t *testing.T) {
	f, let := undoing()
	let()
	c, _ := serve(t, f)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.StartVM(ctx, "otter", banger.StartVM{}, nil); banger.KindOf(err) != banger.TimedOut {
		t.Errorf("got %v (%s)", err, banger.KindOf(err))
	}
}

func TestClientThatVanishesCancels(t *testing.T) {
	f, let := undoing(banger.Step{Step: "boot"})
	let()
	c, _ := serve(t, f)
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "POST /vms HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	<-f.block
	conn.Close()
	if err := <-f.unwound; !errors.Is(err, context.Canceled) {
		t.Errorf("the operation saw %v", err)
	}
}

// busy counts the operations that run.
type busy struct {
	*fake
	n atomic.Int32
}

func (b *busy) CreateVM(ctx context.Context, _ banger.CreateVM, p banger.Progress) (banger.VM, error) {
	b.n.Add(1)
	defer b.n.Add(-1)
	p.Send(banger.Step{Step: "boot"})
	<-ctx.Done()
	return banger.VM{}, ctx.Err()
}

// TestCancelAtAnyMoment: whenever a client is cancelled, no operation runs once its
// call returns.
func TestCancelAtAnyMoment(t *testing.T) {
	b := &busy{fake: &fake{}}
	c, _ := serveVMs(t, b, b.fake)
	for i := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(i)*5*time.Microsecond, cancel)
		_, err := c.CreateVM(ctx, banger.CreateVM{}, nil)
		if n := b.n.Load(); n != 0 {
			t.Errorf("%d operations at work", n)
		}
		if banger.KindOf(err) != banger.Canceled {
			t.Errorf("got %v (%s)", err, banger.KindOf(err))
		}
		timer.Stop()
		cancel()
	}
}

// TestLostOperations: a command whose daemon ends leads to what the next daemon makes of
// it, and not to itself: a name may be taken by then.
func TestLostOperations(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(conn))
			conn.Close()
		}
	}()
	c := &Client{socket: socket}
	_, create := c.CreateVM(t.Context(), banger.CreateVM{Name: "otter"}, nil)
	_, rename := c.RenameVM(t.Context(), "otter", banger.RenameVM{Name: "vole"}, nil)
	_, imported := c.ImportImage(t.Context(), banger.ImportImage{Name: "box"}, nil)
	for _, c := range []struct {
		err  error
		want string
	}{{create, "banger vm list, which "}, {rename, "banger vm list, which "}, {imported, "banger image list, which "}} {
		if !strings.HasPrefix(banger.FixOf(c.err), c.want) || !errors.Is(c.err, errLost) {
			t.Errorf("got %v, fix %q, want %s", c.err, banger.FixOf(c.err), c.want)
		}
	}
}
