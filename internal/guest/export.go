package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/guest/wire"
)

// Exported is what a guest sends of its root file system.
type Exported struct {
	ctx     context.Context
	stop    func() bool
	client  *ssh.Client
	channel ssh.Channel
	status  <-chan int // the exit status; closed without one if the connection has ended
	said    chan string
}

// Export asks the agent in vm for an export, over conn, a stream to its SSH port. key is a
// private key that the guest lets in as root. The end of ctx ends the export.
func Export(ctx context.Context, conn net.Conn, vm banger.VM, key []byte, request wire.Export) (*Exported, error) {
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("read the daemon's key: %w", err)
	}
	client, err := dialSSHWith(ctx, conn, vm, "root", signer)
	if err != nil {
		return nil, err
	}
	e, err := beginExport(client, vm, request)
	if err != nil {
		client.Close()
		return nil, err
	}
	e.ctx, e.stop = ctx, context.AfterFunc(ctx, func() { client.Close() })
	return e, nil
}

func beginExport(client *ssh.Client, vm banger.VM, request wire.Export) (*Exported, error) {
	channel, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	status := make(chan int, 1)
	go func() {
		defer close(status)
		for r := range requests {
			if code, ok := exitOf(r); ok && len(status) == 0 {
				status <- code
			}
			if r.WantReply {
				r.Reply(false, nil)
			}
		}
	}()
	e := &Exported{client: client, channel: channel, status: status, said: make(chan string, 1)}
	go func() {
		text, _ := io.ReadAll(io.LimitReader(channel.Stderr(), 4<<10))
		e.said <- strings.TrimSpace(Printable(string(text)))
		io.Copy(io.Discard, channel.Stderr())
	}()
	ok, err := channel.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{wire.ExportSubsystem}))
	if err == nil && !ok {
		err = &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("the agent in VM %q is older than this banger, and cannot export its system", vm.Name),
			Fix: "banger vm restart " + vm.Name}
	}
	if err == nil {
		err = json.NewEncoder(channel).Encode(request)
	}
	return e, err
}

// Read reads the export. Its end is io.EOF only if the guest has said that it is complete.
func (e *Exported) Read(p []byte) (int, error) {
	n, err := e.channel.Read(p)
	if err == nil {
		return n, nil
	}
	if e.ctx.Err() != nil {
		return n, e.ctx.Err()
	}
	if err != io.EOF {
		return n, fmt.Errorf("read the guest's files: %w", err)
	}
	switch status, known := <-e.status; {
	case !known:
		return n, &banger.Error{Why: errors.New("the connection to the guest ended while its files were read"), Fix: "run the command again"}
	case status != 0:
		return n, &banger.Error{Why: fmt.Errorf("the guest's agent could not export its files: %s", <-e.said), Fix: "run the command again"}
	}
	return n, io.EOF
}

// Close ends the connection.
func (e *Exported) Close() error {
	e.stop()
	return e.client.Close()
}

// maxChanges bounds how many bytes of changes a guest may send.
const maxChanges = 512 << 20

// Changes reads an export of changes to its end. A guest can send only so many.
func (e *Exported) Changes() ([]wire.Change, error) {
	const most = 2_000_000
	var all []wire.Change
	in := &io.LimitedReader{R: e, N: maxChanges}
	for lines := json.NewDecoder(in); ; {
		var change wire.Change
		err := lines.Decode(&change)
		switch {
		case err == io.EOF && in.N > 0:
			return all, nil
		case err != nil && e.ctx.Err() != nil:
			return nil, e.ctx.Err()
		case err != nil:
			return nil, fmt.Errorf("read the guest's changes: %w", err)
		case len(all) == most:
			return nil, fmt.Errorf("the guest reports more than %d changes", most)
		}
		all = append(all, change)
	}
}
