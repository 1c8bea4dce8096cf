package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"banger"
)

// undoWait bounds how long the client of a cancelled operation waits until the
// daemon has undone it. The daemon continues without the client.
const undoWait = 60 * time.Second

// operate runs an operation on a connection of its own. When ctx ends, it closes
// its half of the connection, which cancels the operation, and still reads the
// answer: it returns once the daemon has undone what was begun.
func (c *Client) operate(ctx context.Context, path string, in any, progress banger.Progress, out any) error {
	return c.operateFor(ctx, undoWait, path, in, progress, out)
}

func (c *Client) operateFor(ctx context.Context, wait time.Duration, path string, in any, progress banger.Progress, out any) error {
	req, err := request(ctx, "POST", path, in)
	if err != nil {
		return err
	}
	conn, err := dialSocket(ctx, c.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Now().Add(wait))
		conn.(*net.UnixConn).CloseWrite()
	})()
	if err := req.Write(conn); err != nil {
		return broken(ctx, err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err == nil {
		err = outcome(resp, progress, out)
	}
	return ended(ctx, path, err)
}

// outcome reads an operation's answer to its end.
func outcome(resp *http.Response, progress banger.Progress, out any) error {
	if err := succeeded(resp); err != nil {
		return err
	}
	for body := json.NewDecoder(resp.Body); ; {
		var l line
		if err := body.Decode(&l); err != nil {
			return err
		}
		switch {
		case l.Error != nil:
			return l.Error.err()
		case l.Event != nil:
			progress.Send(*l.Event)
		default:
			return json.Unmarshal(l.Result, out)
		}
	}
}

// ended returns why an operation failed: what the daemon reports, or the end of
// ctx or of the connection.
func ended(ctx context.Context, path string, err error) error {
	said := (*banger.Error)(nil)
	timeout := net.Error(nil)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &said):
		if said.Kind == banger.Canceled && ctx.Err() != nil {
			said.Kind = banger.KindOf(ctx.Err()) // the daemon cannot know that it was a deadline
		}
		return said
	case ctx.Err() != nil && errors.As(err, &timeout) && timeout.Timeout():
		return &banger.Error{Fix: "banger vm list", Why: fmt.Errorf("the daemon is still undoing the operation: %w", ctx.Err())}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return lost(ctx, path)
	}
	return broken(ctx, err)
}

// lost returns the error of an operation whose daemon has ended. The next one finishes or
// undoes it, so that the same command may not work again.
func lost(ctx context.Context, path string) error {
	if ctx.Err() != nil {
		return &banger.Error{Why: ctx.Err()}
	}
	noun, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	list := map[string]string{"vms": "banger vm list", "images": "banger image list"}[noun]
	if list == "" {
		return broken(ctx, errLost)
	}
	return &banger.Error{What: "talk to the daemon", Why: errLost, Fix: list + ", which shows whether it was done all the same"}
}

var errLost = errors.New("the daemon ended before it answered")
