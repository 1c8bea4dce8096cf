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

// streamed is how much BenchmarkStream sends each way; BANGER_BENCH_MB replaces it.
const streamed = 200

// BenchmarkStream sends data out of a VM and into it, by exec and by ssh through banger's
// proxy, in the order ABBA.
func BenchmarkStream(b *testing.B) {
	once(b)
	h, ctx := shared, context.Background()
	const name = "bench-stream"
	h.must(b, "vm", "create", "--name", name, "--image", h.tiny(b))
	defer h.run(ctx, nil, "vm", "delete", "--yes", "--force", name)
	vm := h.show(b, name)
	megabytes := streamed
	if text := os.Getenv("BANGER_BENCH_MB"); text != "" {
		if _, err := fmt.Sscan(text, &megabytes); err != nil {
			b.Fatal(err)
		}
	}
	size := int64(megabytes) << 20
	data := filepath.Join(h.dir, "stream")
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(data, size); err != nil {
		b.Fatal(err)
	}
	banger := []string{filepath.Join(h.bin, "banger"), "vm", "exec", name, "--", "sh", "-c"}
	ssh := guest.SSHArgv(vm, []string{filepath.Join(h.bin, "banger"), "vm", "proxy", string(vm.ID), fmt.Sprint(wire.PortSSH)}, nil)
	for _, way := range []struct{ name, script, in string }{
		{"out of a VM", fmt.Sprintf("head -c %d /dev/zero", size), os.DevNull},
		{"into a VM", fmt.Sprintf(`test "$(wc -c)" -eq %d`, size), data},
	} {
		var took [2]time.Duration
		for _, which := range []int{0, 1, 1, 0} {
			took[which] += h.stream(b, append([][]string{banger, ssh}[which], way.script), way.in)
		}
		for which, tool := range []string{"exec", "ssh through the proxy"} {
			measured.add(fmt.Sprintf("%d MB %s, %s", megabytes, way.name, tool), "MB/s", "", float64(2*megabytes)/took[which].Seconds())
		}
		measured.add("  time of exec by that of ssh, "+way.name, "", "1.10", took[0].Seconds()/took[1].Seconds())
	}
	b.ReportMetric(0, "ns/op")
}

func (h *home) stream(b *testing.B, argv []string, in string) time.Duration {
	b.Helper()
	file, err := os.Open(in)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin = h.env, file // its output goes to /dev/null
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%q: %v", argv, err)
	}
	return time.Since(begun)
}
