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

	"banger"
	"banger/internal/version"
)

// Client talks to a daemon. It implements the three services, and may be used by several goroutines.
type Client struct {
	socket string
	http   *http.Client
}

var (
	_ banger.VMService    = (*Client)(nil)
	_ banger.ImageService = (*Client)(nil)
	_ banger.HostService  = (*Client)(nil)
)

// Dial makes a client of the daemon at socket. It is NotFound when nobody
// listens there, and Conflict when somebody else's program does.
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

// Socket is where the daemon listens.
func (c *Client) Socket() string { return c.socket }

// Close lets go of the connections that are not in use.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// dialSocket connects to a daemon and sees to it that it is the user's own.
func dialSocket(ctx context.Context, socket string) (net.Conn, error) {
	short, done, err := shorten(socket)
	if err != nil {
		return nil, noDaemon(socket, err)
	}
	defer done()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", short)
	if err != nil {
		if ctx.Err() != nil {
			return nil, &banger.Error{Kind: banger.KindOf(ctx.Err()), What: "talk to the daemon", Why: ctx.Err()}
		}
		return nil, noDaemon(socket, err)
	}
	uid, err := peerUID(conn.(*net.UnixConn))
	if err == nil && uid != os.Geteuid() && uid != 0 {
		err = fmt.Errorf("%s belongs to user %d", socket, uid)
	}
	if err != nil {
		conn.Close()
		return nil, &banger.Error{Kind: banger.Conflict, What: "talk to the daemon", Why: err, Fix: "export XDG_RUNTIME_DIR with a directory of your own"}
	}
	return conn, nil
}

func noDaemon(socket string, err error) error {
	return &banger.Error{Kind: banger.NotFound, What: "talk to the daemon", Why: fmt.Errorf("no daemon answers at %s: %w", socket, err), Fix: "any other banger command starts one"}
}

// request makes a request with the headers of this client.
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

// do sends a request and returns an answer that is a success.
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

// succeeded turns an answer that is no success into its error.
func succeeded(resp *http.Response) error {
	theirs := resp.Header.Get(protocolHeader)
	if theirs == "" {
		return &banger.Error{Kind: banger.Conflict, What: "talk to the daemon", Why: errors.New("what answers is not bangerd"), Fix: restart}
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

// broken explains a connection that failed: by the caller's own end, or because
// the daemon went away.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &banger.Error{Kind: banger.KindOf(ctx.Err()), Why: ctx.Err()}
	}
	if e := (*banger.Error)(nil); errors.As(err, &e) {
		return e
	}
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return &banger.Error{What: "talk to the daemon", Why: err, Fix: "run the command again; bangerd.log in the state directory says more"}
}

// call makes a request whose answer is JSON.
func (c *Client) call(ctx context.Context, path string, out any) error {
	resp, err := c.do(ctx, "GET", path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return broken(ctx, err)
	}
	return nil
}

// vmPath is the route of a VM's verb. A ref that a path cannot carry names no VM.
func vmPath(ref, verb string) (string, error) {
	if ref == "" || ref == "." || ref == ".." {
		return "", &banger.Error{Kind: banger.NotFound, What: fmt.Sprintf("find VM %q", ref), Why: errors.New("there is no such VM"), Fix: "banger vm list"}
	}
	path := "/vms/" + url.PathEscape(ref)
	if verb != "" {
		path += "/" + verb
	}
	return path, nil
}

// verb runs a VM's long operation.
func (c *Client) verb(ctx context.Context, ref, verb string, in any, progress banger.Progress) (banger.VM, error) {
	var vm banger.VM
	path, err := vmPath(ref, verb)
	if err == nil {
		err = c.operate(ctx, path, in, progress, &vm)
	}
	return vm, err
}

// CreateVM implements banger.VMService.
func (c *Client) CreateVM(ctx context.Context, spec banger.CreateVM, progress banger.Progress) (banger.VM, error) {
	var vm banger.VM
	err := c.operate(ctx, "/vms", spec, progress, &vm)
	return vm, err
}

// ListVMs implements banger.VMService.
func (c *Client) ListVMs(ctx context.Context) ([]banger.VM, error) {
	var all []banger.VM
	err := c.call(ctx, "/vms", &all)
	return all, err
}

// SummarizeVMs implements banger.VMService.
func (c *Client) SummarizeVMs(ctx context.Context) ([]banger.VMSummary, error) {
	var all []banger.VMSummary
	err := c.call(ctx, "/summaries", &all)
	return all, err
}

// ShowVM implements banger.VMService.
func (c *Client) ShowVM(ctx context.Context, ref string) (banger.VM, error) {
	var vm banger.VM
	path, err := vmPath(ref, "")
	if err == nil {
		err = c.call(ctx, path, &vm)
	}
	return vm, err
}

// StartVM implements banger.VMService.
func (c *Client) StartVM(ctx context.Context, ref string, opts banger.StartVM, progress banger.Progress) (banger.VM, error) {
	return c.verb(ctx, ref, "start", opts, progress)
}

// StopVM implements banger.VMService.
func (c *Client) StopVM(ctx context.Context, ref string, opts banger.StopVM, progress banger.Progress) (banger.VM, error) {
	return c.verb(ctx, ref, "stop", opts, progress)
}

// RestartVM implements banger.VMService.
func (c *Client) RestartVM(ctx context.Context, ref string, opts banger.StopVM, progress banger.Progress) (banger.VM, error) {
	return c.verb(ctx, ref, "restart", opts, progress)
}

// DeleteVM implements banger.VMService.
func (c *Client) DeleteVM(ctx context.Context, ref string, opts banger.DeleteVM, progress banger.Progress) error {
	_, err := c.verb(ctx, ref, "delete", opts, progress)
	return err
}

// WaitVM implements banger.VMService.
func (c *Client) WaitVM(ctx context.Context, ref string, opts banger.WaitVM, progress banger.Progress) (banger.VM, error) {
	return c.verb(ctx, ref, "wait", opts, progress)
}

// SetVM implements banger.VMService.
func (c *Client) SetVM(ctx context.Context, ref string, opts banger.SetVM, progress banger.Progress) (banger.VM, error) {
	return c.verb(ctx, ref, "set", opts, progress)
}

// KillVM implements banger.VMService.
func (c *Client) KillVM(ctx context.Context, ref string, opts banger.KillVM, progress banger.Progress) (banger.VM, error) {
	return c.verb(ctx, ref, "kill", opts, progress)
}

// RenameVM implements banger.VMService.
func (c *Client) RenameVM(ctx context.Context, ref string, opts banger.RenameVM, progress banger.Progress) (banger.VM, error) {
	return c.verb(ctx, ref, "rename", opts, progress)
}

// VMStats implements banger.VMService.
func (c *Client) VMStats(ctx context.Context, ref string) (banger.VMStats, error) {
	var stats banger.VMStats
	path, err := vmPath(ref, "stats")
	if err == nil {
		err = c.call(ctx, path, &stats)
	}
	return stats, err
}

// Daemon implements banger.HostService.
func (c *Client) Daemon(ctx context.Context) (banger.Daemon, error) {
	var d banger.Daemon
	err := c.call(ctx, "/daemon", &d)
	return d, err
}

// StopDaemon implements banger.HostService. It returns when the daemon is gone.
func (c *Client) StopDaemon(ctx context.Context) error {
	resp, err := c.do(ctx, "POST", "/daemon/stop")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// The daemon keeps this connection until it ends, however it ends.
	if _, err := io.Copy(io.Discard, resp.Body); err != nil && ctx.Err() != nil {
		return broken(ctx, err)
	}
	return nil
}

// ListImages implements banger.HostService.
func (c *Client) ListImages(ctx context.Context) ([]banger.Image, error) {
	var all []banger.Image
	err := c.call(ctx, "/images", &all)
	return all, err
}

// ImportImage implements banger.HostService.
func (c *Client) ImportImage(ctx context.Context, spec banger.ImportImage, progress banger.Progress) (banger.Image, error) {
	var image banger.Image
	err := c.operate(ctx, "/images", spec, progress, &image)
	return image, err
}

// DeleteImage implements banger.HostService.
func (c *Client) DeleteImage(ctx context.Context, ref string, progress banger.Progress) error {
	if ref == "" || ref == "." || ref == ".." {
		return &banger.Error{Kind: banger.NotFound, What: fmt.Sprintf("find image %q", ref), Why: errors.New("there is no such image"), Fix: "banger image list"}
	}
	return c.operate(ctx, "/images/"+url.PathEscape(ref)+"/delete", nil, progress, new(struct{}))
}

// ListKernels implements banger.HostService.
func (c *Client) ListKernels(ctx context.Context) ([]banger.Kernel, error) {
	var all []banger.Kernel
	err := c.call(ctx, "/kernels", &all)
	return all, err
}
