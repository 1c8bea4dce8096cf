package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"banger"
	"banger/internal/version"
)

// unwindTime bounds how long a stopping server waits for cancelled operations
// to undo what they did. What is left is repaired by the next daemon.
const unwindTime = 30 * time.Second

// Server serves the services of a daemon. It is an http.Handler too.
type Server struct {
	vms  banger.VMService
	host banger.HostService
	log  *slog.Logger
	mux  *http.ServeMux
	http *http.Server

	ctx    context.Context // of every request: ends when the server stops
	cancel context.CancelFunc

	mu      sync.Mutex
	streams map[net.Conn]bool // upgraded connections, which net/http forgets
	busy    sync.WaitGroup    // their handlers
	waiters []net.Conn        // clients that asked the daemon to stop and wait for its end
}

// NewServer makes a server of vms and host. It serves nothing yet.
func NewServer(vms banger.VMService, host banger.HostService, log *slog.Logger) *Server {
	s := &Server{vms: vms, host: host, log: log, mux: http.NewServeMux(), streams: map[net.Conn]bool{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}
	s.routes()
	return s
}

func (s *Server) routes() {
	s.mux.HandleFunc("GET /daemon", answer(func(r *http.Request) (any, error) { return s.host.Daemon(r.Context()) }))
	s.mux.HandleFunc("POST /daemon/stop", s.stopDaemon)
	s.mux.HandleFunc("GET /images", answer(func(r *http.Request) (any, error) { return some(s.host.ListImages(r.Context())) }))
	s.mux.HandleFunc("POST /images", operation(s, "import image", func(ctx context.Context, _ string, spec banger.ImportImage, p banger.Progress) (any, error) {
		return s.host.ImportImage(ctx, spec, p)
	}))
	s.mux.HandleFunc("POST /images/{ref}/delete", operation(s, "delete image", func(ctx context.Context, ref string, _ struct{}, p banger.Progress) (any, error) {
		return struct{}{}, s.host.DeleteImage(ctx, ref, p)
	}))
	s.mux.HandleFunc("GET /kernels", answer(func(r *http.Request) (any, error) { return some(s.host.ListKernels(r.Context())) }))
	s.mux.HandleFunc("GET /vms", answer(func(r *http.Request) (any, error) { return some(s.vms.ListVMs(r.Context())) }))
	s.mux.HandleFunc("GET /summaries", answer(func(r *http.Request) (any, error) { return some(s.vms.SummarizeVMs(r.Context())) }))
	s.mux.HandleFunc("GET /vms/{ref}", answer(func(r *http.Request) (any, error) { return s.vms.ShowVM(r.Context(), r.PathValue("ref")) }))
	s.mux.HandleFunc("GET /vms/{ref}/stats", answer(func(r *http.Request) (any, error) { return s.vms.VMStats(r.Context(), r.PathValue("ref")) }))
	s.mux.HandleFunc("GET /vms/{ref}/logs", s.logs)
	s.mux.HandleFunc("POST /vms/{ref}/dial", s.dial)

	s.mux.HandleFunc("POST /vms", operation(s, "create", func(ctx context.Context, _ string, spec banger.CreateVM, p banger.Progress) (any, error) {
		return s.vms.CreateVM(ctx, spec, p)
	}))
	s.mux.HandleFunc("POST /vms/{ref}/start", operation(s, "start", func(ctx context.Context, ref string, opts banger.StartVM, p banger.Progress) (any, error) {
		return s.vms.StartVM(ctx, ref, opts, p)
	}))
	s.mux.HandleFunc("POST /vms/{ref}/stop", operation(s, "stop", func(ctx context.Context, ref string, opts banger.StopVM, p banger.Progress) (any, error) {
		return s.vms.StopVM(ctx, ref, opts, p)
	}))
	s.mux.HandleFunc("POST /vms/{ref}/restart", operation(s, "restart", func(ctx context.Context, ref string, opts banger.StopVM, p banger.Progress) (any, error) {
		return s.vms.RestartVM(ctx, ref, opts, p)
	}))
	s.mux.HandleFunc("POST /vms/{ref}/delete", operation(s, "delete", func(ctx context.Context, ref string, opts banger.DeleteVM, p banger.Progress) (any, error) {
		return struct{}{}, s.vms.DeleteVM(ctx, ref, opts, p)
	}))
	s.mux.HandleFunc("POST /vms/{ref}/wait", operation(s, "wait", func(ctx context.Context, ref string, opts banger.WaitVM, p banger.Progress) (any, error) {
		return s.vms.WaitVM(ctx, ref, opts, p)
	}))
	s.mux.HandleFunc("POST /vms/{ref}/set", operation(s, "set", func(ctx context.Context, ref string, opts banger.SetVM, p banger.Progress) (any, error) {
		return s.vms.SetVM(ctx, ref, opts, p)
	}))
	s.mux.HandleFunc("POST /vms/{ref}/kill", operation(s, "kill", func(ctx context.Context, ref string, opts banger.KillVM, p banger.Progress) (any, error) {
		return s.vms.KillVM(ctx, ref, opts, p)
	}))
	s.mux.HandleFunc("POST /vms/{ref}/rename", operation(s, "rename", func(ctx context.Context, ref string, opts banger.RenameVM, p banger.Progress) (any, error) {
		return s.vms.RenameVM(ctx, ref, opts, p)
	}))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &banger.Error{Kind: banger.Conflict, Fix: restart,
			Why: errors.New("this daemon (bangerd " + version.Version + ") has no " + r.Method + " " + r.URL.Path)})
	})
}

// ServeHTTP implements http.Handler. A client that names no protocol, such as
// curl, is taken to know what it does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mark(w.Header())
	theirs := r.Header.Get(protocolHeader)
	if theirs != "" && !eternal(r.URL.Path) {
		if err := fits(theirs, r.Header.Get(versionHeader), Protocol, version.Version); err != nil {
			refuse(w, err)
			return
		}
	}
	s.mux.ServeHTTP(w, r)
}

// Serve answers on l until the server or l is closed. It may be called for
// several listeners, one after the other or at once.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Shutdown cancels every operation, waits until they are unwound, and ends all
// raw streams. Clients that asked for the end still wait; Release tells them.
func (s *Server) Shutdown() error {
	s.cancel()
	s.mu.Lock()
	for stream := range s.streams {
		stream.Close()
	}
	s.mu.Unlock()
	ctx, done := context.WithTimeout(context.Background(), unwindTime)
	defer done()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.busy.Wait()
	return err
}

// Release tells the clients that asked for the daemon's end that it has come.
// A process that exits need not call it.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.waiters {
		conn.Close()
	}
	s.waiters = nil
}

// stopDaemon answers at once and leaves the connection open until the daemon
// is gone, so that a client can wait for that.
func (s *Server) stopDaemon(w http.ResponseWriter, r *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, err)
		return
	}
	s.mu.Lock()
	s.waiters = append(s.waiters, conn)
	s.mu.Unlock()
	header := http.Header{"Connection": {"close"}, "Content-Type": {"application/json"}}
	mark(header)
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
	header.Write(conn)
	io.WriteString(conn, "\r\n{}\n")
	s.log.Info("asked to stop")
	if err := s.host.StopDaemon(s.ctx); err != nil {
		s.log.Error("stop daemon", "err", err)
	}
}

// some makes an empty list out of none: [] in JSON, not null.
func some[T any](list []T, err error) ([]T, error) {
	if list == nil {
		list = []T{}
	}
	return list, err
}
