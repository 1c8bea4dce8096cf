//go:build vm

package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/firecracker"
	"banger/internal/vmm/qemu"
)

// bareVM is a VM that runs without banger.
type bareVM interface {
	Dial(ctx context.Context, port int) (net.Conn, error)
	end()
}

// bare runs a VM like the one called name, but without banger. It returns the time
// from the start of the VMM to the end of `true`; disks and initrd exist before.
func (h *home) bare(b *testing.B, path, name string, settings []byte) time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	vm := h.show(b, name)
	spec, identity := h.bareSpec(b, ctx, path, vm)
	defer os.RemoveAll(path)
	start := startQEMU
	if vm.Driver == firecracker.Name {
		start = func(ctx context.Context, spec vmm.Spec) (bareVM, error) { return startFirecracker(spec, settings) }
	}
	begun := time.Now()
	machine, err := start(ctx, spec)
	spec.Lock.Close()
	if err != nil {
		b.Fatal(err)
	}
	defer machine.end()
	conn, err := machine.Dial(ctx, wire.PortControl)
	if err != nil {
		b.Fatal(err)
	}
	control, err := guest.OpenControl(ctx, conn, identity, "bench", func(wire.Event) {})
	if err != nil {
		b.Fatal(err)
	}
	defer control.Close()
	stream, err := machine.Dial(ctx, wire.PortSSH)
	if err != nil {
		b.Fatal(err)
	}
	status, err := guest.Exec(ctx, stream, vm, wire.Exec{Argv: [][]byte{[]byte("true")}}, guest.Session{Stdout: io.Discard, Stderr: io.Discard})
	took := time.Since(begun)
	if err != nil || status != 0 {
		b.Fatalf("true ended with %d: %v", status, err)
	}
	return took
}

// bareQEMU runs the driver's own command line, which is too long to type.
type bareQEMU struct{ vmm.Machine }

func startQEMU(ctx context.Context, spec vmm.Spec) (bareVM, error) {
	machine, err := qemu.New(hostcmd.Host{}).Launch(ctx, spec)
	return bareQEMU{machine}, err
}

func (m bareQEMU) end() {
	m.Kill()
	<-m.Ended()
	m.Close()
}

// settings returns the configuration that Firecracker reports for a running VM, as a
// file that starts another VM like it.
func (h *home) settings(b *testing.B, name string) []byte {
	b.Helper()
	vm := h.show(b, name)
	if vm.Driver != firecracker.Name {
		return nil
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(vm.Dir, "api.sock"))
	}}}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://firecracker/vm/config")
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		b.Fatalf("%s: %v", text, err)
	}
	return text
}

// bareFirecracker runs Firecracker with a configuration file.
type bareFirecracker struct {
	cmd    *exec.Cmd
	vsock  string
	knocks net.Listener
	up     bool
}

func startFirecracker(spec vmm.Spec, settings []byte) (bareVM, error) {
	m := &bareFirecracker{cmd: exec.Command("firecracker", "--no-api", "--config-file", "vm.json", "--id", string(spec.ID)), vsock: filepath.Join(spec.Dir, "v.sock")}
	if err := os.WriteFile(filepath.Join(spec.Dir, "vm.json"), settings, 0o600); err != nil {
		return nil, err
	}
	console, err := os.Create(filepath.Join(spec.Dir, spec.Console))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	if m.knocks, err = net.Listen("unix", fmt.Sprintf("%s_%d", m.vsock, wire.PortKnock)); err != nil {
		return nil, err
	}
	m.cmd.Dir, m.cmd.Stdout, m.cmd.Stderr, m.cmd.Env = spec.Dir, console, console, []string{}
	return m, m.cmd.Start()
}

// Dial waits for the agent's knock, and then connects to the guest.
func (m *bareFirecracker) Dial(ctx context.Context, port int) (net.Conn, error) {
	if !m.up {
		stop := context.AfterFunc(ctx, func() { m.knocks.Close() })
		defer stop()
		knock, err := m.knocks.Accept()
		if err != nil {
			return nil, err
		}
		knock.Close()
		m.up = true
	}
	conn, err := net.Dial("unix", m.vsock)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "CONNECT %d\n", port)
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
		return nil, fmt.Errorf("connect to port %d: %q: %w", port, line, err)
	}
	return buffered{conn, in}, nil
}

func (m *bareFirecracker) end() {
	m.cmd.Process.Kill()
	m.cmd.Wait()
	m.knocks.Close()
}

// buffered is a connection of which the beginning has been read.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (c buffered) Read(p []byte) (int, error) { return c.in.Read(p) }
