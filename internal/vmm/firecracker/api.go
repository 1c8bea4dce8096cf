package firecracker

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
	"strings"
	"time"
)

// call is one operation of Firecracker's API.
type call struct {
	method string
	path   string // a part in braces stands for a name
}

// The operations that are used, and no others.
var (
	describe       = call{http.MethodGet, "/"}
	describeConfig = call{http.MethodGet, "/vm/config"}
	putMachine     = call{http.MethodPut, "/machine-config"}
	putBootSource  = call{http.MethodPut, "/boot-source"}
	putDrive       = call{http.MethodPut, "/drives/{drive_id}"}
	patchDrive     = call{http.MethodPatch, "/drives/{drive_id}"}
	putInterface   = call{http.MethodPut, "/network-interfaces/{iface_id}"}
	putVsock       = call{http.MethodPut, "/vsock"}
	putEntropy     = call{http.MethodPut, "/entropy"}
	putBalloon     = call{http.MethodPut, "/balloon"}
	patchBalloon   = call{http.MethodPatch, "/balloon"}
	getBalloon     = call{http.MethodGet, "/balloon/statistics"}
	putSerial      = call{http.MethodPut, "/serial"} // since 1.14
	putAction      = call{http.MethodPut, "/actions"}
)

func (c call) String() string { return c.method + " " + c.path }

// named puts a name into the path.
func (c call) named(name string) call {
	if before, rest, found := strings.Cut(c.path, "{"); found {
		_, after, _ := strings.Cut(rest, "}")
		c.path = before + url.PathEscape(name) + after
	}
	return c
}

// fault is an answer that refuses a call.
type fault struct {
	call    call
	status  int
	message string // as Firecracker says it, bounded
}

func (f *fault) Error() string {
	if f.message == "" {
		return fmt.Sprintf("Firecracker answered %s with status %d", f.call, f.status)
	}
	return fmt.Sprintf("Firecracker refused %s: %s", f.call, f.message)
}

const (
	maxAnswer  = 1 << 20 // bytes of an answer that are read
	maxMessage = 400     // bytes of a fault that are shown
)

// callTime bounds one call. Starting a VM reads its kernel, which a busy host
// can take long for.
const callTime = time.Minute

// client speaks with the API of one Firecracker.
type client struct{ http http.Client }

// newClient makes a client that connects by dial.
func newClient(dial func(ctx context.Context) (net.Conn, error)) *client {
	return &client{http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost: 1, // Firecracker serves ten at most
		DisableCompression:  true,
	}}}
}

// do makes a call with body as its JSON and reads the answer's JSON into answer.
// Both may be nil.
func (c *client) do(ctx context.Context, what call, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, what.method, "http://firecracker"+what.path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the address in it is made up
		}
		return fmt.Errorf("ask Firecracker for %s: %w", what, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read Firecracker's answer to %s: %w", what, err)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNoContent {
		return &fault{call: what, status: response.StatusCode, message: faultMessage(data)}
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("read Firecracker's answer to %s: %w", what, err)
	}
	return nil
}

// close ends the connections that are kept.
func (c *client) close() { c.http.CloseIdleConnections() }

// faultMessage is the message of a refusal, in one line.
func faultMessage(data []byte) string {
	var said struct {
		Message string `json:"fault_message"`
	}
	if json.Unmarshal(data, &said) != nil {
		return ""
	}
	return oneLine(said.Message)
}

// oneLine makes text fit to be shown.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + " ..."
	}
	return text
}
