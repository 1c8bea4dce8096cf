package sshd

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/transfer"
	"banger/internal/guest/wire"
)

// openTransfer asks the server for a copy.
func (g *sshGuest) openTransfer(t *testing.T, request transfer.Request) ssh.Channel {
	t.Helper()
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	if ok, err := channel.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{wire.TransferSubsystem})); err != nil || !ok {
		t.Fatalf("subsystem: %v, %v", ok, err)
	}
	if err := transfer.WriteRequest(channel, request); err != nil {
		t.Fatal(err)
	}
	return channel
}

func TestTransfer(t *testing.T) {
	g := newSSHGuest(t)
	out := g.openTransfer(t, transfer.Request{Path: []byte("~/in")})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, 5<<20), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := (transfer.Sender{Path: dir}).Send(out); err != nil {
		t.Fatal(err)
	}
	out.CloseWrite()
	if err := transfer.Answer(out, nil); err != nil {
		t.Fatal(err)
	}
	in := g.openTransfer(t, transfer.Request{Send: true, Path: []byte("in/file")})
	if err := (transfer.Receiver{Path: filepath.Join(dir, "back")}).Receive(in); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "back")); err != nil || info.Size() != 5<<20 || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestTransferInterrupted ends copies by a signal, and by the end of the connection.
func TestTransferInterrupted(t *testing.T) {
	for name, end := range map[string]func(ssh.Channel){
		"signal":     func(c ssh.Channel) { c.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{"TERM"})) },
		"connection": func(c ssh.Channel) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			g := newSSHGuest(t)
			channel := g.openTransfer(t, transfer.Request{Path: []byte("new")})
			if _, err := channel.Write([]byte("d\x00\x00\x00\x00f\x01x\x00\x00\x00\x00\x00\x08data")); err != nil {
				t.Fatal(err)
			}
			entries := func() int {
				list, err := os.ReadDir(g.home)
				if err != nil {
					t.Fatal(err)
				}
				return len(list)
			}
			until(t, "the copy begins", func() bool { return entries() == 1 })
			end(channel)
			if name == "signal" {
				if err := transfer.Answer(channel, nil); err == nil {
					t.Error("it is said to be complete")
				}
			}
			until(t, "nothing is left", func() bool { return entries() == 0 })
		})
	}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}
