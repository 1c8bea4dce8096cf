package ocitest

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
)

// Registry is a registry on loopback.
type Registry struct {
	Host string // its address and port

	mu       sync.Mutex
	images   map[string]Image // by REPOSITORY:TAG
	fail     func(w http.ResponseWriter, r *http.Request) bool
	requests []string
}

// NewRegistry returns a registry that ends with the test.
func NewRegistry(t testing.TB) *Registry { return serve(t, httptest.NewServer) }

// NewTLSRegistry returns one that speaks TLS, and the certificate of its authority.
func NewTLSRegistry(t testing.TB) (*Registry, *httptest.Server) {
	var server *httptest.Server
	r := serve(t, func(h http.Handler) *httptest.Server {
		server = httptest.NewUnstartedServer(h)
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it
		server.StartTLS()
		return server
	})
	return r, server
}

func serve(t testing.TB, start func(http.Handler) *httptest.Server) *Registry {
	r := &Registry{images: map[string]Image{}}
	server := start(r)
	t.Cleanup(server.Close)
	_, r.Host, _ = strings.Cut(server.URL, "://")
	return r
}

// Push puts an image under a name, such as app:1.
func (r *Registry) Push(name string, i Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[name] = i
}

// Fail calls f before each answer; if it returns true, it has answered. It may be nil.
func (r *Registry) Fail(f func(w http.ResponseWriter, r *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = f
}

// Requests returns the paths that were asked for, and forgets them.
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.requests
	r.requests = nil
	return all
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, strings.TrimSpace(req.URL.Path+" "+req.Header.Get("Range")))
	fail := r.fail
	r.mu.Unlock()
	if fail != nil && fail(w, req) {
		return
	}
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	if path == "" {
		return
	}
	for _, kind := range []string{"/manifests/", "/blobs/"} {
		if repository, ref, ok := strings.Cut(path, kind); ok {
			data, found := r.find(repository, ref)
			if !found {
				http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`, http.StatusNotFound)
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			if kind == "/manifests/" {
				w.Header().Set("Content-Type", MediaType(data))
			}
			http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
			return
		}
	}
	http.NotFound(w, req)
}

func (r *Registry) find(repository, ref string) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i, ok := r.images[repository+":"+ref]; ok {
		return i.Blobs[i.Top], true
	}
	for name, i := range r.images {
		if at, _, _ := strings.Cut(name, ":"); at == repository {
			if data, ok := i.Blobs[banger.Digest(ref)]; ok {
				return data, true
			}
		}
	}
	return nil, false
}
