package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"banger"
)

// logs streams a log as it is. If reading fails, the connection breaks, so that a
// client can tell this from the end of the log.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	follow, _ := strconv.ParseBool(r.URL.Query().Get("follow"))
	opts := banger.VMLogs{Kind: banger.LogKind(r.URL.Query().Get("kind")), Follow: follow}
	if opts.Kind == "" {
		opts.Kind = banger.ConsoleLog
	}
	log, err := s.vms.VMLogs(r.Context(), r.PathValue("ref"), opts)
	if err != nil {
		refuse(w, err)
		return
	}
	defer log.Close()
	out := flusher{w, http.NewResponseController(w)}
	defer context.AfterFunc(r.Context(), func() {
		log.Close()
		out.SetWriteDeadline(time.Now()) // a client that does not read must not delay the daemon's end
	})()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	out.Flush()
	// A followed log that is closed ends without an error.
	if _, err := io.Copy(out, log); err != nil || r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
}

// flusher sends each write at once.
type flusher struct {
	io.Writer
	*http.ResponseController
}

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.Flush()
	}
	return n, err
}

// VMLogs implements banger.VMService.
func (c *Client) VMLogs(ctx context.Context, ref string, opts banger.VMLogs) (io.ReadCloser, error) {
	path, err := pathOf("vms", ref, "logs")
	if err != nil {
		return nil, err
	}
	query := url.Values{"kind": {string(opts.Kind)}, "follow": {strconv.FormatBool(opts.Follow)}}
	resp, err := c.do(ctx, "GET", path+"?"+query.Encode())
	if err != nil {
		return nil, err
	}
	return &logBody{resp.Body, ctx, ref}, nil
}

// logBody returns an error if a log breaks off before its end.
type logBody struct {
	io.ReadCloser
	ctx context.Context
	ref string
}

func (l *logBody) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case l.ctx.Err() != nil:
		return n, broken(l.ctx, err)
	}
	return n, &banger.Error{
		What: fmt.Sprintf("read the log of VM %q", l.ref),
		Why:  fmt.Errorf("the connection to the daemon broke: %w", err), Fix: "run the command again",
	}
}
