package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"banger"
	"banger/internal/linux"
	"banger/internal/version"
)

// Client talks to a daemon. It implements the services and is safe for
// concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

var (
	_ banger.VMService    = (*Client)(nil)
	_ banger.ImageService = (*Client)(nil)
	_ banger.BuildService = (*Client)(nil)
	_ banger.HostService  = (*Client)(nil)
)

// Dial returns a client of the daemon at socket. The error is NotFound if no
// program listens there, and Conflict if another user's program does.
func Dial(ctx context.Context, socket string) (*Client, error) {
	conn, err := dialSocket(ctx, socket)
	if err != nil {
		return nil, err
	}
	conn.Close()
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, socket) },
	}}
	return c, nil
}

// Socket returns the path of the daemon's socket.
func (c *Client) Socket() string { return c.socket }

// Close closes the idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// dialSocket connects to a daemon and checks that it is the user's own.
func dialSocket(ctx context.Context, socket string) (net.Conn, error) {
	short, done, err := shorten(socket)
	if err != nil {
		return nil, noDaemon(socket, err)
	}
	defer done()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", short)
	if err != nil {
		if ctx.Err() != nil {
			return nil, &banger.Error{What: "talk to the daemon", Why: ctx.Err()}
		}
		return nil, noDaemon(socket, err)
	}
	peer, err := linux.Peer(conn)
	if err == nil && int(peer.Uid) != os.Geteuid() && peer.Uid != 0 {
		err = fmt.Errorf("%s belongs to user %d", socket, peer.Uid)
	}
	if err != nil {
		conn.Close()
		return nil, &banger.Error{Kind: banger.Conflict, What: "talk to the daemon", Why: err, Fix: "export XDG_RUNTIME_DIR with a directory of your own"}
	}
	return conn, nil
}

func noDaemon(socket string, err error) error {
	return &banger.Error{Kind: banger.NotFound, What: "talk to the daemon", Why: fmt.Errorf("no daemon answers at %s: %w", socket, err), Fix: "banger vm list, which starts the daemon"}
}

// request returns a request with the headers of this client.
func request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://bangerd"+path, body)
	if err != nil {
		return nil, err
	}
	mark(req.Header)
	return req, nil
}

// do sends a request and returns the answer, or the error that the daemon reports.
func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := request(ctx, method, path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, broken(ctx, err)
	}
	if err := succeeded(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// succeeded returns nil if the answer is a success, else the error it carries.
func succeeded(resp *http.Response) error {
	if resp.StatusCode == http.StatusRequestHeaderFieldsTooLarge { // which package http answers by itself
		return banger.Invalidf("banger vm list", "nothing has a name of that length")
	}
	theirs := resp.Header.Get(protocolHeader)
	if theirs == "" {
		return &banger.Error{Kind: banger.Conflict, What: "talk to the daemon", Why: errors.New("the program that answers is not bangerd"), Fix: restart}
	}
	if resp.StatusCode < 300 && eternal(resp.Request.URL.Path) {
		return nil
	}
	if resp.StatusCode < 300 {
		return fits(Protocol, version.Version, theirs, resp.Header.Get(versionHeader))
	}
	var body line
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&body); err != nil || body.Error == nil {
		return &banger.Error{What: "talk to the daemon", Why: fmt.Errorf("it answered %s", resp.Status), Fix: restart}
	}
	return body.Error.err()
}

// broken returns the error for a connection that failed: the end of ctx, or that
// of the daemon.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &banger.Error{Why: ctx.Err()}
	}
	if e := (*banger.Error)(nil); errors.As(err, &e) {
		return e
	}
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return &banger.Error{What: "talk to the daemon", Why: err, Fix: "run the command again; bangerd.log in the state directory says more"}
}

// get makes a request whose answer is JSON.
func get[T any](ctx context.Context, c *Client, route ...string) (T, error) {
	var answer T
	path, err := pathOf(route...)
	if err != nil {
		return answer, err
	}
	resp, err := c.do(ctx, "GET", path)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return answer, broken(ctx, err)
	}
	return answer, nil
}

// post runs an operation and returns its result.
func post[T any](ctx context.Context, c *Client, options any, p progress, route ...string) (T, error) {
	var result T
	path, err := pathOf(route...)
	if err == nil {
		err = c.operate(ctx, path, options, p, &result)
	}
	return result, err
}

// nouns maps the first part of a route to the word that errors use.
var nouns = map[string]string{"vms": "VM", "images": "image"}

// pathOf returns the path of a route, such as "vms", ref, "stop". A ref that a path
// cannot hold is NotFound.
func pathOf(route ...string) (string, error) {
	path := ""
	for _, part := range route {
		if part == "" || part == "." || part == ".." {
			noun := nouns[route[0]]
			return "", &banger.Error{Kind: banger.NotFound, What: fmt.Sprintf("there is no %s %q", noun, part), Fix: "banger " + strings.ToLower(noun) + " list"}
		}
		path += "/" + url.PathEscape(part)
	}
	return path, nil
}

// CreateVM implements banger.VMService.
func (c *Client) CreateVM(ctx context.Context, spec banger.CreateVM, p progress) (banger.VM, error) {
	return post[banger.VM](ctx, c, spec, p, "vms")
}

// ListVMs implements banger.VMService.
func (c *Client) ListVMs(ctx context.Context) ([]banger.VM, error) {
	return get[[]banger.VM](ctx, c, "vms")
}

// SummarizeVMs implements banger.VMService.
func (c *Client) SummarizeVMs(ctx context.Context) ([]banger.VMSummary, error) {
	return get[[]banger.VMSummary](ctx, c, "summaries")
}

// ShowVM implements banger.VMService.
func (c *Client) ShowVM(ctx context.Context, ref string) (banger.VM, error) {
	return get[banger.VM](ctx, c, "vms", ref)
}

// StartVM implements banger.VMService.
func (c *Client) StartVM(ctx context.Context, ref string, opts banger.StartVM, p progress) (banger.VM, error) {
	return post[banger.VM](ctx, c, opts, p, "vms", ref, "start")
}

// StopVM implements banger.VMService.
func (c *Client) StopVM(ctx context.Context, ref string, opts banger.StopVM, p progress) (banger.VM, error) {
	return post[banger.VM](ctx, c, opts, p, "vms", ref, "stop")
}

// RestartVM implements banger.VMService.
func (c *Client) RestartVM(ctx context.Context, ref string, opts banger.StopVM, p progress) (banger.VM, error) {
	return post[banger.VM](ctx, c, opts, p, "vms", ref, "restart")
}

// DeleteVM implements banger.VMService.
func (c *Client) DeleteVM(ctx context.Context, ref string, opts banger.DeleteVM, p progress) error {
	_, err := post[struct{}](ctx, c, opts, p, "vms", ref, "delete")
	return err
}

// WaitVM implements banger.VMService.
func (c *Client) WaitVM(ctx context.Context, ref string, opts banger.WaitVM, p progress) (banger.VM, error) {
	return post[banger.VM](ctx, c, opts, p, "vms", ref, "wait")
}

// SetVM implements banger.VMService.
func (c *Client) SetVM(ctx context.Context, ref string, opts banger.SetVM, p progress) (banger.VM, error) {
	return post[banger.VM](ctx, c, opts, p, "vms", ref, "set")
}

// KillVM implements banger.VMService.
func (c *Client) KillVM(ctx context.Context, ref string, opts banger.KillVM, p progress) (banger.VM, error) {
	return post[banger.VM](ctx, c, opts, p, "vms", ref, "kill")
}

// FsckVM implements banger.VMService.
func (c *Client) FsckVM(ctx context.Context, ref string, opts banger.FsckVM, p progress) (banger.Fsck, error) {
	return post[banger.Fsck](ctx, c, opts, p, "vms", ref, "fsck")
}

// RenameVM implements banger.VMService.
func (c *Client) RenameVM(ctx context.Context, ref string, opts banger.RenameVM, p progress) (banger.VM, error) {
	return post[banger.VM](ctx, c, opts, p, "vms", ref, "rename")
}

// VMStats implements banger.VMService.
func (c *Client) VMStats(ctx context.Context, ref string) (banger.VMStats, error) {
	return get[banger.VMStats](ctx, c, "vms", ref, "stats")
}

// VMPorts implements banger.VMService.
func (c *Client) VMPorts(ctx context.Context, ref string) (banger.VMPorts, error) {
	return get[banger.VMPorts](ctx, c, "vms", ref, "ports")
}

// ListImages implements banger.ImageService.
func (c *Client) ListImages(ctx context.Context) ([]banger.Image, error) {
	return get[[]banger.Image](ctx, c, "images")
}

// ImportImage implements banger.ImageService.
func (c *Client) ImportImage(ctx context.Context, spec banger.ImportImage, p progress) (banger.Image, error) {
	return post[banger.Image](ctx, c, spec, p, "images")
}

// PullImage implements banger.ImageService.
func (c *Client) PullImage(ctx context.Context, spec banger.PullImage, p progress) (banger.Image, error) {
	return post[banger.Image](ctx, c, spec, p, "images", "pull")
}

// PruneImages implements banger.ImageService.
func (c *Client) PruneImages(ctx context.Context, opts banger.PruneImages, p progress) (banger.Pruned, error) {
	return post[banger.Pruned](ctx, c, opts, p, "images", "prune")
}

// DeleteImage implements banger.ImageService.
func (c *Client) DeleteImage(ctx context.Context, ref string, p progress) error {
	_, err := post[struct{}](ctx, c, nil, p, "images", ref, "delete")
	return err
}

// ListKernels implements banger.ImageService.
func (c *Client) ListKernels(ctx context.Context) ([]banger.Kernel, error) {
	return get[[]banger.Kernel](ctx, c, "kernels")
}

// BuildImage implements banger.BuildService.
func (c *Client) BuildImage(ctx context.Context, name string, spec banger.BuildImage, p progress) (banger.BuiltImage, error) {
	return post[banger.BuiltImage](ctx, c, spec, p, "images", name, "build")
}

// CommitVM implements banger.BuildService.
func (c *Client) CommitVM(ctx context.Context, ref string, opts banger.CommitVM, p progress) (banger.Image, error) {
	return post[banger.Image](ctx, c, opts, p, "vms", ref, "commit")
}

// DiffVM implements banger.BuildService.
func (c *Client) DiffVM(ctx context.Context, ref string, opts banger.DiffVM, p progress) (banger.VMDiff, error) {
	return post[banger.VMDiff](ctx, c, opts, p, "vms", ref, "diff")
}

// Daemon implements banger.HostService.
func (c *Client) Daemon(ctx context.Context) (banger.Daemon, error) {
	return get[banger.Daemon](ctx, c, "daemon")
}

// RenumberNetwork implements banger.HostService.
func (c *Client) RenumberNetwork(ctx context.Context, opts banger.RenumberNetwork, p progress) (banger.Renumbered, error) {
	return post[banger.Renumbered](ctx, c, opts, p, "network", "renumber")
}

// StopDaemon implements banger.HostService. It returns once the daemon has ended.
func (c *Client) StopDaemon(ctx context.Context) error {
	resp, err := c.do(ctx, "POST", "/daemon/stop")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// The daemon keeps this connection open until it ends, however it ends.
	if _, err := io.Copy(io.Discard, resp.Body); err != nil && ctx.Err() != nil {
		return broken(ctx, err)
	}
	return nil
}
