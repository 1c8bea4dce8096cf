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
	vms    banger.VMService
	images banger.ImageService
	host   banger.HostService
	log    *slog.Logger
	mux    *http.ServeMux
	http   *http.Server

	ctx    context.Context // of every request: ends when the server stops
	cancel context.CancelFunc

	mu      sync.Mutex
	streams map[net.Conn]bool // upgraded connections, which net/http forgets
	busy    sync.WaitGroup    // their handlers
	waiters []net.Conn        // clients that asked the daemon to stop and wait for its end
}

// NewServer returns a server of the three services. It does not listen yet.
func NewServer(vms banger.VMService, images banger.ImageService, host banger.HostService, log *slog.Logger) *Server {
	s := &Server{vms: vms, images: images, host: host, log: log, mux: http.NewServeMux(), streams: map[net.Conn]bool{}}
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
	vms, images, host := s.vms, s.images, s.host
	for route, handler := range map[string]http.HandlerFunc{
		"GET /daemon":               answer(func(r *http.Request) (any, error) { return host.Daemon(r.Context()) }),
		"POST /daemon/stop":         s.stopDaemon,
		"GET /events":               s.events,
		"GET /images":               answer(func(r *http.Request) (any, error) { return some(images.ListImages(r.Context())) }),
		"POST /images":              operation(withoutRef(images.ImportImage)),
		"POST /images/{ref}/delete": operation(withoutOptions(images.DeleteImage)),
		"GET /kernels":              answer(func(r *http.Request) (any, error) { return some(images.ListKernels(r.Context())) }),

		"GET /vms":             answer(func(r *http.Request) (any, error) { return some(vms.ListVMs(r.Context())) }),
		"GET /summaries":       answer(func(r *http.Request) (any, error) { return some(vms.SummarizeVMs(r.Context())) }),
		"GET /vms/{ref}":       answer(func(r *http.Request) (any, error) { return vms.ShowVM(r.Context(), r.PathValue("ref")) }),
		"GET /vms/{ref}/stats": answer(func(r *http.Request) (any, error) { return vms.VMStats(r.Context(), r.PathValue("ref")) }),
		"GET /vms/{ref}/logs":  s.logs,
		"POST /vms/{ref}/dial": s.dial,

		"POST /vms":               operation(withoutRef(vms.CreateVM)),
		"POST /vms/{ref}/start":   operation(vms.StartVM),
		"POST /vms/{ref}/stop":    operation(vms.StopVM),
		"POST /vms/{ref}/restart": operation(vms.RestartVM),
		"POST /vms/{ref}/delete":  operation(withoutResult(vms.DeleteVM)),
		"POST /vms/{ref}/wait":    operation(vms.WaitVM),
		"POST /vms/{ref}/set":     operation(vms.SetVM),
		"POST /vms/{ref}/kill":    operation(vms.KillVM),
		"POST /vms/{ref}/rename":  operation(vms.RenameVM),
	} {
		s.mux.HandleFunc(route, handler)
	}
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

type progress = banger.Progress

// withoutRef makes an operation of a method that creates something: there is no ref.
func withoutRef[T, R any](f func(context.Context, T, progress) (R, error)) func(context.Context, string, T, progress) (R, error) {
	return func(ctx context.Context, _ string, spec T, p progress) (R, error) { return f(ctx, spec, p) }
}

// withoutResult makes an operation of a method without a result.
func withoutResult[T any](f func(context.Context, string, T, progress) error) func(context.Context, string, T, progress) (struct{}, error) {
	return func(ctx context.Context, ref string, opts T, p progress) (struct{}, error) {
		return struct{}{}, f(ctx, ref, opts, p)
	}
}

// withoutOptions makes an operation of a method without options and without a result.
func withoutOptions(f func(context.Context, string, progress) error) func(context.Context, string, struct{}, progress) (struct{}, error) {
	return func(ctx context.Context, ref string, _ struct{}, p progress) (struct{}, error) {
		return struct{}{}, f(ctx, ref, p)
	}
}
