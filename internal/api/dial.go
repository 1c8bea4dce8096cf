package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"banger/internal/linux"

	"banger"
)

// passHeader is sent by a client that can receive the stream's descriptor, and by a
// daemon that passes it. Then the client sends one byte, and the daemon answers with
// one that carries the descriptor: neither side can have read them too early.
const passHeader = "Banger-Pass"

// DialVM implements banger.VMService. The returned stream outlives ctx, and the
// daemon where the VMM has a socket for each stream.
func (c *Client) DialVM(ctx context.Context, ref string, port int) (net.Conn, error) {
	path, err := pathOf("vms", ref, "dial")
	if err != nil {
		return nil, err
	}
	req, err := request(ctx, "POST", path+"?port="+strconv.Itoa(port), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", streamProtocol)
	req.Header.Set(passHeader, "1")
	conn, err := dialSocket(ctx, c.socket)
	if err != nil {
		return nil, err
	}
	stream, err := upgrade(ctx, conn, req)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return stream, nil
}

func upgrade(ctx context.Context, conn net.Conn, req *http.Request) (net.Conn, error) {
	stop := linux.InterruptAfter(ctx, conn)
	defer stop()
	if err := req.Write(conn); err != nil {
		return nil, broken(ctx, err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, broken(ctx, err)
	}
	if err := succeeded(resp); resp.StatusCode != http.StatusSwitchingProtocols {
		if err == nil {
			err = &banger.Error{What: "talk to the daemon", Why: fmt.Errorf("it answered %s", resp.Status), Fix: restart}
		}
		return nil, err
	}
	if resp.Header.Get(passHeader) != "" {
		passed, err := takeStream(conn)
		if err != nil {
			return nil, broken(ctx, err)
		}
		conn.Close()
		return passed, nil
	}
	if !stop() {
		return nil, broken(ctx, ctx.Err()) // the deadline is set, or about to be
	}
	return &stream{Conn: conn, r: r}, nil
}

// stream is a connection whose first bytes may be in r already.
type stream struct {
	net.Conn
	r *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.r.Read(p) }

// dial connects a client to a port of a guest.
func (s *Server) dial(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.Atoi(r.URL.Query().Get("port"))
	switch {
	case err != nil || port < 1 || port > 65535:
		refuse(w, banger.Invalidf("write a port between 1 and 65535", "%q is not a port", r.URL.Query().Get("port")))
		return
	case r.Header.Get("Upgrade") != streamProtocol:
		refuse(w, banger.Invalidf("send the headers Connection: Upgrade and Upgrade: "+streamProtocol, "dial needs an upgrade"))
		return
	}
	guest, err := s.vms.DialVM(r.Context(), r.PathValue("ref"), port)
	if err != nil {
		refuse(w, err)
		return
	}
	defer guest.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, err)
		return
	}
	defer client.Close()
	if !s.track(client) {
		return
	}
	defer s.untrack(client)
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {streamProtocol}}
	mark(header)
	own, pass := guest.(*net.UnixConn)
	if pass = pass && r.Header.Get(passHeader) != ""; pass {
		header.Set(passHeader, "1")
	}
	fmt.Fprint(buffered, "HTTP/1.1 101 Switching Protocols\r\n")
	header.Write(buffered)
	fmt.Fprint(buffered, "\r\n")
	switch err := buffered.Flush(); {
	case err != nil:
	case pass:
		giveStream(client, buffered.Reader, own)
	default:
		join(client, buffered.Reader, guest)
	}
}

// join copies in both directions until either end closes; there is no half-close.
// r reads from client and may hold bytes that came early.
func join(client net.Conn, r *bufio.Reader, guest net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyAll(guest, r)
		guest.Close()
		client.Close()
	}()
	copyAll(client, guest)
	client.Close()
	guest.Close()
	<-done
}

// copyAll hides WriteTo and ReadFrom: splicing from the connection of a
// bufio.Reader would skip what the reader holds.
func copyAll(to io.Writer, from io.Reader) {
	io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
}

// track adds a raw stream and reports whether it may run: not once the server stops.
func (s *Server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.ctx.Err(), context.Canceled) {
		return false
	}
	s.streams[conn] = true
	s.busy.Add(1)
	return true
}

func (s *Server) untrack(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, conn)
	s.busy.Done()
}
