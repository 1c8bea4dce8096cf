//go:build vm

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/api"
	"banger/internal/guest"
	"banger/internal/guest/wire"
)

// BenchmarkExec runs `true` in a running VM, 20 times in turn: with banger, with ssh
// through banger's proxy, and from this process.
func BenchmarkExec(b *testing.B) {
	once(b)
	h, ctx := shared, context.Background()
	const name = "bench-exec"
	h.must(b, "vm", "create", "--name", name)
	defer h.run(ctx, nil, "vm", "delete", "--yes", "--force", name)
	h.must(b, "vm", "wait", "--for", "boot", name)
	vm := h.show(b, name)
	client, err := api.Connect(ctx, h.dirs, api.ConnectOptions{NoStart: true})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	for range 20 {
		measured.millis("exec true on a warm VM, whole process", "", h.must(b, "vm", "exec", name, "--", "true"))
		measured.millis("the same, plain ssh through banger's proxy", "", h.ssh(b, vm))
		measured.millis("the same, guest.Exec on an open stream", "", bareExec(b, client, vm))
		h.execParts(b, vm)
	}
	b.ReportMetric(0, "ns/op")
}

func (h *home) ssh(b *testing.B, vm banger.VM) time.Duration {
	b.Helper()
	argv := guest.SSHArgv(vm, []string{filepath.Join(h.bin, "banger"), "vm", "proxy", string(vm.ID), fmt.Sprint(wire.PortSSH)}, []string{"true"})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = h.env
	begun := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("ssh: %v: %s", err, out)
	}
	return time.Since(begun)
}

func dialGuest(b *testing.B, client *api.Client, vm banger.VM, port int) net.Conn {
	b.Helper()
	stream, err := client.DialVM(context.Background(), vm.Name, port)
	if err != nil {
		b.Fatal(err)
	}
	return stream
}

func bareExec(b *testing.B, client *api.Client, vm banger.VM) time.Duration {
	b.Helper()
	stream := dialGuest(b, client, vm, wire.PortSSH)
	begun := time.Now()
	status, err := guest.Exec(context.Background(), stream, vm, wire.Exec{Argv: [][]byte{[]byte("true")}}, guest.Session{Stdout: io.Discard, Stderr: io.Discard})
	if err != nil || status != 0 {
		b.Fatalf("true ended with %d: %v", status, err)
	}
	return time.Since(begun)
}

// execParts does what `banger vm exec` does, and measures each part.
func (h *home) execParts(b *testing.B, vm banger.VM) {
	b.Helper()
	begun := h.must(b, "version")
	measured.millis("  exec: start of the process (banger version)", "", begun)
	last := time.Now()
	part := func(name string, err error) {
		b.Helper()
		if err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		measured.millis("  exec: "+name, "", time.Since(last))
		last = time.Now()
	}
	client, err := api.Connect(context.Background(), h.dirs, api.ConnectOptions{NoStart: true})
	part("connect to the daemon", err)
	defer client.Close()
	_, err = client.ShowVM(context.Background(), vm.Name)
	part("ask for the VM", err)
	stream, err := client.DialVM(context.Background(), vm.Name, wire.PortSSH)
	part("dial the guest", err)
	private, err := os.ReadFile(vm.SSHKey)
	if err != nil {
		b.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(private)
	if err != nil {
		b.Fatal(err)
	}
	conn, channels, requests, err := ssh.NewClientConn(stream, vm.Name, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}})
	part("log in (SSH handshake)", err)
	login := ssh.NewClient(conn, channels, requests)
	defer login.Close()
	session, news, err := login.OpenChannel("session", nil)
	if err != nil {
		b.Fatal(err)
	}
	payload, err := json.Marshal(wire.Exec{Argv: [][]byte{[]byte("true")}})
	if err != nil {
		b.Fatal(err)
	}
	_, err = session.SendRequest(wire.ExecRequest, true, payload)
	part("start the program", err)
	session.CloseWrite()
	for request := range news {
		if request.WantReply {
			request.Reply(false, nil)
		}
	}
	part("its end", nil)
}
