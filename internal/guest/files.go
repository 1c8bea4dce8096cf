package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/guest/transfer"
	"banger/internal/guest/wire"
)

// Files is a guest's end of a copy.
type Files struct {
	client  *ssh.Client
	channel ssh.Channel
}

// OpenFiles asks the agent in vm for one copy, over conn, a stream to its SSH port.
// user is whose rights it has; empty means root.
func OpenFiles(ctx context.Context, conn net.Conn, vm banger.VM, user string, request transfer.Request) (*Files, error) {
	if user == "" {
		user = "root"
	}
	client, err := dialSSHAs(ctx, conn, vm, user)
	if err != nil {
		// The key is known, and so only the user can be unknown.
		if user != "root" && strings.Contains(err.Error(), "unable to authenticate") {
			return nil, &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("VM %q has no user %q", vm.Name, user), Fix: "give a name or number of its /etc/passwd"}
		}
		return nil, err
	}
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("open a session: %w", err)
	}
	go ssh.DiscardRequests(requests)
	ok, err := channel.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{wire.TransferSubsystem}))
	if err == nil && !ok {
		err = &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("the agent in VM %q is older than this banger, and cannot copy files", vm.Name),
			Fix: "banger vm restart " + vm.Name}
	}
	if err == nil {
		err = transfer.WriteRequest(channel, request)
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	go io.Copy(io.Discard, channel.Stderr())
	return &Files{client, channel}, nil
}

// Source is what the guest sends, for a transfer.Flow.
func (f *Files) Source(w io.Writer) error {
	_, err := io.Copy(w, f.channel)
	return err
}

// undoTime bounds how long a guest may take to remove what is not complete.
const undoTime = 10 * time.Second

// Sink returns what the guest receives, for a transfer.Flow. When ctx ends, it waits
// until the guest has removed what is not complete. note gets what was left out.
func (f *Files) Sink(ctx context.Context, note func(path, why string)) func(io.Reader) error {
	return func(r io.Reader) error {
		stop := context.AfterFunc(ctx, func() {
			f.channel.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{"TERM"}))
			time.AfterFunc(undoTime, func() { f.client.Close() })
		})
		defer stop()
		// If the guest takes no more, its answer says why.
		_, err := io.Copy(f.channel, r)
		f.channel.CloseWrite()
		if answer := transfer.Answer(f.channel, note); answer != nil || err == nil || errors.Is(err, io.EOF) {
			return answer
		}
		return err
	}
}

// Close ends the connection. A copy that has not ended fails.
func (f *Files) Close() error { return f.client.Close() }
