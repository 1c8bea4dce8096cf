package vmmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

type fixture struct {
	driver       vmm.Driver
	newSpec      func(t *testing.T) vmm.Spec
	capabilities vmm.Capabilities
}

// context bounds a step of a test, in which a broken driver would hang.
func (f *fixture) context(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), f.capabilities.BootTimeout)
	t.Cleanup(cancel)
	return ctx
}

// launch launches a VM; the test's end ends it.
func (f *fixture) launch(t *testing.T) (vmm.Machine, vmm.Spec) {
	t.Helper()
	spec := f.newSpec(t)
	return f.boot(t, spec), spec
}

// again launches a VM that has ended.
func (f *fixture) again(t *testing.T, spec vmm.Spec) vmm.Machine {
	t.Helper()
	if err := os.Remove(filepath.Join(spec.Dir, spec.Console)); err != nil {
		t.Fatal(err)
	}
	var err error
	if spec.Lock, err = vmm.Lock(filepath.Join(spec.Dir, LockName)); err != nil {
		t.Fatal(err)
	}
	return f.boot(t, spec)
}

func (f *fixture) boot(t *testing.T, spec vmm.Spec) vmm.Machine {
	t.Helper()
	m, err := f.driver.Launch(f.context(t), spec)
	spec.Lock.Close()
	if err != nil {
		t.Fatalf("launch: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			tell(t, spec)
		}
		m.Kill()
		m.Close()
	})
	return m
}

// adopt takes over a VM that was launched; the test's end ends it.
func (f *fixture) adopt(t *testing.T, spec vmm.Spec) vmm.Machine {
	t.Helper()
	m, err := f.driver.Adopt(f.context(t), spec.Dir)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	t.Cleanup(func() {
		m.Kill()
		m.Close()
	})
	return m
}

func tell(t *testing.T, spec vmm.Spec) {
	for _, name := range []string{spec.Console, spec.Log} {
		data, _ := os.ReadFile(filepath.Join(spec.Dir, name))
		t.Logf("%s:\n%s", name, data[max(0, len(data)-4000):])
	}
}

func (f *fixture) ended(t *testing.T, m vmm.Machine, want vmm.Reason) {
	t.Helper()
	select {
	case <-m.Ended():
	case <-f.context(t).Done():
		t.Fatal("the VMM has not ended")
	}
	if got := m.Exit(); got.Reason != want {
		t.Errorf("ended by %q, want %q", got, want)
	}
}

// told checks what the driver finds out about the end of a VM that nobody watched: the
// reason may be unknown, but not wrong.
func (f *fixture) told(t *testing.T, spec vmm.Spec, want vmm.Reason) {
	t.Helper()
	if got := f.driver.Ending(spec.Dir); got.Reason != want && got.Reason != vmm.ReasonUnknown {
		t.Errorf("unwatched, it ended by %+v, want %q", got, want)
	}
}

func (f *fixture) dial(t *testing.T, m vmm.Machine, port int) net.Conn {
	t.Helper()
	ctx := f.context(t)
	conn, err := m.Dial(ctx, port)
	if err != nil {
		t.Fatalf("dial port %d: %v", port, err)
	}
	t.Cleanup(func() { conn.Close() })
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return conn
}

// control is a control connection past the guest's hello.
type control struct {
	conn  net.Conn
	in    *bufio.Scanner
	hello wire.Hello
}

func (f *fixture) control(t *testing.T, m vmm.Machine, spec vmm.Spec) *control {
	t.Helper()
	c := &control{conn: f.dial(t, m, wire.PortControl)}
	c.in = bufio.NewScanner(c.conn)
	hello := c.read(t)
	config, err := ReadConfig(filepath.Join(spec.Dir, spec.Initrd))
	if err != nil {
		t.Fatal(err)
	}
	if hello.Hello == nil || hello.Hello.Token != config.Token || hello.Hello.Nonce != config.Nonce || hello.Hello.BootID == "" {
		t.Fatalf("got %+v, want the hello of the boot with nonce %s", hello.Hello, config.Nonce)
	}
	c.hello = *hello.Hello
	return c
}

func (c *control) read(t *testing.T) wire.Message {
	t.Helper()
	var m wire.Message
	if !c.in.Scan() {
		t.Fatalf("control connection ended: %v", c.in.Err())
	}
	if err := json.Unmarshal(c.in.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (c *control) ask(t *testing.T, method string, params any) {
	t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(c.conn).Encode(wire.Message{Request: &wire.Request{ID: 1, Method: method, Params: raw}}); err != nil {
		t.Fatal(err)
	}
	for {
		if m := c.read(t); m.Reply != nil {
			if m.Reply.Error != "" {
				t.Fatalf("%s: %s", method, m.Reply.Error)
			}
			return
		}
	}
}

func (f *fixture) echo(t *testing.T, m vmm.Machine) {
	t.Helper()
	conn := f.dial(t, m, PortEcho)
	defer conn.Close()
	const said = "the bytes come back as they were"
	if _, err := io.WriteString(conn, said); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(said))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != said {
		t.Fatalf("echo: %q, %v", got, err)
	}
}

// swap has the guest write a line to its disk, and returns the last one.
func (f *fixture) swap(t *testing.T, m vmm.Machine, line string) string {
	t.Helper()
	conn := f.dial(t, m, PortData)
	defer conn.Close()
	fmt.Fprintln(conn, line)
	last, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(last, "\n")
}

func (f *fixture) act(t *testing.T, m vmm.Machine, verb wire.Verb) {
	t.Helper()
	if _, err := fmt.Fprintf(f.dial(t, m, PortAct), "%s\n", verb); err != nil {
		t.Fatal(err)
	}
}
