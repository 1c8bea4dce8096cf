package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/guest/wire"
)

// TestExportThatBreaksOff: only an export that the guest calls complete ends with io.EOF.
func TestExportThatBreaksOff(t *testing.T) {
	status := func(n uint32) func(ssh.Channel) {
		return func(c ssh.Channel) { c.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{n})) }
	}
	for name, test := range map[string]struct {
		end  func(ssh.Channel)
		want string
	}{
		"complete":       {status(0), ""},
		"failed":         {status(1), "could not export its files: no such disk"},
		"without a word": {func(ssh.Channel) {}, "the connection to the guest ended"},
	} {
		t.Run(name, func(t *testing.T) {
			exported := openExport(t, t.Context(), func(c ssh.Channel, request wire.Export) {
				if !request.Home || len(request.Skip) != 1 {
					t.Errorf("it is asked for %+v", request)
				}
				io.WriteString(c, "files")
				io.WriteString(c.Stderr(), "no such\ndisk\n")
				test.end(c)
			})
			text, err := io.ReadAll(exported)
			if string(text) != "files" || (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}

// TestExportEndsWithItsContext: a guest that sends nothing keeps nobody waiting.
func TestExportEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	exported := openExport(t, ctx, func(c ssh.Channel, _ wire.Export) {
		io.WriteString(c, "files")
		<-over
	})
	if _, err := io.ReadFull(exported, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(exported); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestChangesAreRead: a list of changes is whole, or an error.
func TestChangesAreRead(t *testing.T) {
	send := func(text string) func(ssh.Channel, wire.Export) {
		return func(c ssh.Channel, _ wire.Export) {
			io.WriteString(c, text)
			c.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
		}
	}
	changes, err := openExport(t, t.Context(), send(`{"kind":"added","path":"eA=="}`+"\n"+`{"kind":"deleted","path":"eQ=="}`)).Changes()
	if err != nil || len(changes) != 2 || string(changes[1].Path) != "y" {
		t.Errorf("%+v, %v", changes, err)
	}
	if _, err := openExport(t, t.Context(), send(`{"kind":`)).Changes(); err == nil {
		t.Error("half a change is read")
	}
}

// openExport opens an export of a guest that answers by serve.
func openExport(t *testing.T, ctx context.Context, serve func(ssh.Channel, wire.Export)) *Exported {
	t.Helper()
	key, public, err := NewKey("test")
	if err != nil {
		t.Fatal(err)
	}
	vm := banger.VM{ID: "0123456789ab", Name: "otter", KnownHosts: t.TempDir() + "/known_hosts"}
	if err := AddKnownHost(vm.KnownHosts, vm.ID, vm.Name, public); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			serveExport(conn, key, serve)
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	exported, err := Export(ctx, conn, vm, key, wire.Export{Home: true, Skip: []string{"tmp"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exported.Close() })
	return exported
}

func serveExport(conn net.Conn, key []byte, serve func(ssh.Channel, wire.Export)) {
	defer conn.Close()
	host, err := ssh.ParsePrivateKey(key)
	if err != nil {
		return
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(host)
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offer := range channels {
		channel, requests, err := offer.Accept()
		if err != nil {
			return
		}
		(<-requests).Reply(true, nil)
		go ssh.DiscardRequests(requests)
		var request wire.Export
		line, err := bufio.NewReader(channel).ReadBytes('\n')
		if err == nil && json.Unmarshal(line, &request) == nil {
			serve(channel, request)
		}
		channel.Close()
		return
	}
}
