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
// to undo what they did. The next daemon repairs the rest.
const unwindTime = 30 * time.Second

// Server serves the services of a daemon. It is also an http.Handler.
type Server struct {
	vms    banger.VMService
	images banger.ImageService
	builds banger.BuildService
	host   banger.HostService
	log    *slog.Logger
	mux    *http.ServeMux
	http   *http.Server
	newest newest

	ctx    context.Context // of every request; ends when the server stops
	cancel context.CancelFunc

	mu      sync.Mutex
	streams map[net.Conn]bool // upgraded connections, which net/http no longer tracks
	busy    sync.WaitGroup    // their handlers
	waiters []net.Conn        // clients that asked the daemon to stop and wait until it has
}

// NewServer returns a server of the services. Call Serve to listen.
func NewServer(vms banger.VMService, images banger.ImageService, builds banger.BuildService, host banger.HostService, log *slog.Logger) *Server {
	s := &Server{vms: vms, images: images, builds: builds, host: host, log: log, mux: http.NewServeMux(), streams: map[net.Conn]bool{}}
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
	vms, images, builds, host := s.vms, s.images, s.builds, s.host
	for route, handler := range map[string]http.HandlerFunc{
		"GET /daemon":       answer(host.Daemon),
		"POST /daemon/stop": s.stopDaemon,
		"GET /events":       s.events,

		"POST /network/renumber": operation(withoutRef(host.RenumberNetwork)),

		"GET /images":               list(images.ListImages),
		"POST /images":              operation(withoutRef(images.ImportImage)),
		"POST /images/pull":         operation(withoutRef(images.PullImage)),
		"POST /images/prune":        operation(withoutRef(images.PruneImages)),
		"POST /images/{ref}/delete": operation(withoutOptions(images.DeleteImage)),
		"GET /kernels":              list(images.ListKernels),

		"POST /images/{ref}/build": operation(builds.BuildImage),
		"POST /vms/{ref}/commit":   operation(builds.CommitVM),
		"POST /vms/{ref}/diff":     operation(builds.DiffVM),

		"GET /vms":                list(vms.ListVMs),
		"POST /vms":               operation(withoutRef(vms.CreateVM)),
		"GET /vms/{ref}":          answerRef(vms.ShowVM),
		"POST /vms/{ref}/start":   operation(vms.StartVM),
		"POST /vms/{ref}/stop":    operation(vms.StopVM),
		"POST /vms/{ref}/restart": operation(vms.RestartVM),
		"POST /vms/{ref}/delete":  operation(withoutResult(vms.DeleteVM)),
		"POST /vms/{ref}/wait":    operation(vms.WaitVM),
		"POST /vms/{ref}/set":     operation(vms.SetVM),
		"POST /vms/{ref}/kill":    operation(vms.KillVM),
		"POST /vms/{ref}/rename":  operation(vms.RenameVM),
		"POST /vms/{ref}/fsck":    operation(vms.FsckVM),
		"GET /vms/{ref}/stats":    answerRef(vms.VMStats),
		"GET /vms/{ref}/ports":    answerRef(vms.VMPorts),
		"GET /vms/{ref}/logs":     s.logs,
		"POST /vms/{ref}/dial":    s.dial,
		"GET /summaries":          list(vms.SummarizeVMs),
	} {
		s.mux.HandleFunc(route, handler)
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &banger.Error{Kind: banger.Conflict, Fix: restart,
			Why: errors.New("this daemon (bangerd " + version.Version + ") has no " + r.Method + " " + r.URL.Path)})
	})
}

// ServeHTTP implements http.Handler. A request without a protocol, such as one
// by curl, is served.
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
// several listeners, also at the same time.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Shutdown cancels every operation, waits until they are undone, and ends all
// streams. Clients that asked the daemon to stop still wait: Release tells them.
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

// Release tells the clients that asked the daemon to stop that it has stopped.
// A process that exits need not call it.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.waiters {
		conn.Close()
	}
	s.waiters = nil
}

// stopDaemon answers at once and keeps the connection open until the daemon has
// stopped, so that the client can wait for that.
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
