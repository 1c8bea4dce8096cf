package registry

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/oci"
	"banger/internal/oci/ocitest"
	"banger/internal/oci/registry/blob"
)

// random returns text that does not compress.
func random(n int) string {
	seed := [32]byte{1}
	data := make([]byte, n)
	rand.NewChaCha8(seed).Read(data)
	return string(data)
}

var (
	first  = ocitest.Tar(map[string]string{"bin/sh": random(3 << 20)})
	second = ocitest.Tar(map[string]string{"etc/issue": "hello\n"})
	app    = ocitest.New(ocitest.Host, map[string]any{"Env": []string{"A=b"}}, first, second)
)

// newClient returns a client of a user with a home of its own.
func newClient(t testing.TB) *Client {
	home := t.TempDir()
	return &Client{Blobs: blob.Cache{Dir: filepath.Join(t.TempDir(), "blobs")}, Getenv: func(name string) string {
		return map[string]string{"HOME": home, "XDG_RUNTIME_DIR": home}[name]
	}}
}

func refOf(t testing.TB, text string) oci.Ref {
	t.Helper()
	ref, err := oci.ParseRef(text)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// pull downloads an image and reads it.
func pull(ctx context.Context, c *Client, ref oci.Ref, moved func(int64)) error {
	found, err := c.Find(ctx, ref, "")
	if err != nil {
		return err
	}
	layers, err := found.Download(ctx, moved)
	if err != nil {
		return err
	}
	defer layers.Close()
	for _, content := range layers.Contents() {
		r, err := content.Open()
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
	return nil
}

func nobody(int64) {}

// files returns the names in the cache.
func files(c *Client) (names []string) {
	all, _ := c.Blobs.Entries()
	for _, e := range all {
		names = append(names, filepath.Base(e.Path))
	}
	return names
}

func TestPull(t *testing.T) {
	r, c := ocitest.NewRegistry(t), newClient(t)
	r.Push("org/app:1", ocitest.Index(ocitest.New("linux/riscv64", nil, second), app))
	ref := refOf(t, r.Host+"/org/app:1")
	found, err := c.Find(t.Context(), ref, "")
	if err != nil || len(found.Layers) != 2 || found.Digest != app.Top || found.Config.Env[0] != "A=b" {
		t.Fatalf("%+v, %v", found, err)
	}
	if all, missing := found.Size(); all != missing || all < 3*banger.MiB {
		t.Errorf("%v, %v missing", all, missing)
	}
	var last int64
	var mu sync.Mutex
	if err := pull(t.Context(), c, ref, func(n int64) { mu.Lock(); last = max(last, n); mu.Unlock() }); err != nil {
		t.Fatal(err)
	}
	if all, missing := found.Size(); missing != 0 || int64(all) != last {
		t.Errorf("%v missing; told %d of %d", missing, last, all)
	}
	r.Requests()
	byDigest := refOf(t, r.Host+"/org/app@"+string(app.Top))
	if err := pull(t.Context(), c, byDigest, nobody); err != nil {
		t.Error(err)
	}
	if asked := r.Requests(); len(asked) != 2 { // for the manifest and the configuration
		t.Errorf("a second pull asked for %q", asked)
	}
	if left := files(c); len(left) != 2 {
		t.Errorf("the cache has %q", left)
	}
}

// TestInterruptedPulls: however often a pull is interrupted, what has come stays, and
// nothing else; in the end each byte was sent once.
func TestInterruptedPulls(t *testing.T) {
	r, c := ocitest.NewRegistry(t), newClient(t)
	r.Push("app:1", app)
	ref := refOf(t, r.Host+"/app:1")
	found, err := c.Find(t.Context(), ref, "")
	if err != nil {
		t.Fatal(err)
	}
	all, _ := found.Size()
	seed := time.Now().UnixNano()
	t.Log("seed", seed)
	dice := rand.New(rand.NewPCG(uint64(seed), 1))
	before := int64(0)
	for range 20 {
		at := before + dice.Int64N(int64(all)/10)
		ctx, cancel := context.WithCancel(t.Context())
		reached := int64(0)
		var mu sync.Mutex
		err := pull(ctx, c, ref, func(n int64) {
			mu.Lock()
			defer mu.Unlock()
			if reached = n; n >= at {
				cancel()
			}
		})
		cancel()
		if banger.KindOf(err) != banger.Canceled && err != nil {
			t.Fatal(err)
		}
		if reached < before {
			t.Errorf("%d bytes, there were %d", reached, before)
		}
		before = reached
		for _, name := range files(c) {
			if digest := strings.TrimSuffix(name, ".part"); len(digest) != 64 {
				t.Errorf("left: %s", name)
			}
		}
	}
	if err := pull(t.Context(), c, ref, nobody); err != nil {
		t.Error(err)
	}
	if left := files(c); len(left) != 2 || slices.ContainsFunc(left, func(name string) bool { return len(name) != 64 }) {
		t.Errorf("left: %q", left)
	}
}

// TestFaultsOfRegistries: temporary faults are tried again, and the others reported.
func TestFaultsOfRegistries(t *testing.T) {
	isBlob := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }
	big := "/v2/app/blobs/" + string(firstBlob())
	data := app.Blobs[firstBlob()]
	status := func(code int, text string) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path != "/v2/" {
				http.Error(w, text, code)
			}
			return r.URL.Path != "/v2/"
		}
	}
	for name, c := range map[string]struct {
		fail func(w http.ResponseWriter, r *http.Request, n int) bool
		kind banger.Kind // "": it succeeds
		why  string
		fix  string
	}{
		"cut transfers": {fail: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if r.URL.Path != big || n > 5 {
				return false
			}
			at := 0
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &at)
			w.Header().Set("Content-Length", fmt.Sprint(len(data)-at))
			if at > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(data)-1, len(data)))
				w.WriteHeader(http.StatusPartialContent)
			}
			w.Write(data[at:min(len(data), at+300_000)])
			panic(http.ErrAbortHandler)
		}},
		"cut at once, always": {kind: banger.Unready, fix: "run the command again: it continues", why: "download from 127.0.0.1", fail: func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == big {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				w.WriteHeader(200)
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			return false
		}},
		"no ranges": {fail: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if r.URL.Path != big {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			if n == 0 {
				w.Write(data[:300_000]) // more than is buffered
				panic(http.ErrAbortHandler)
			}
			w.Write(data)
			return true
		}},
		"wrong content": {kind: banger.Invalid, why: "is damaged", fix: "run the command again", fail: func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == big {
				w.Write(append([]byte("x"), data[1:]...))
			}
			return r.URL.Path == big
		}},
		"too much": {kind: banger.Invalid, why: "longer than it should be", fail: func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if r.URL.Path == big {
				w.Write(append(slices.Clone(data), 'x'))
			}
			return r.URL.Path == big
		}},
		"a wrong manifest": {kind: banger.Invalid, why: "its configuration 2", fail: func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if strings.HasSuffix(r.URL.Path, "/manifests/1") {
				w.Write([]byte(strings.Replace(string(app.Blobs[app.Top]), `"layers":[`, `"layers":[{"digest":"sha256:`+strings.Repeat("a", 64)+`","size":1},`, 1)))
			}
			return strings.HasSuffix(r.URL.Path, "/manifests/1")
		}},
		"an endless manifest": {kind: banger.Invalid, why: "answers with more than 4M", fail: func(w http.ResponseWriter, r *http.Request, _ int) bool {
			if strings.HasSuffix(r.URL.Path, "/manifests/1") {
				w.Write(make([]byte, 5<<20))
			}
			return strings.HasSuffix(r.URL.Path, "/manifests/1")
		}},
		"busy for a moment": {fail: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if isBlob(r) && n == 0 {
				w.WriteHeader(http.StatusTooManyRequests)
			}
			return isBlob(r) && n == 0
		}},
		"stalls for a moment": {fail: func(w http.ResponseWriter, r *http.Request, n int) bool {
			if r.URL.Path != big || n > 0 {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.Write(data[:1000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}},
		"not there": {kind: banger.NotFound, why: "has no 127.0.0.1", fix: "check the name", fail: status(http.StatusNotFound, "")},
		"forbidden": {kind: banger.NotFound, why: "denied [2j for you", fix: "docker login 127.0.0.1", fail: status(http.StatusForbidden, `{"errors":[{"code":"DENIED","message":"Denied\u001b[2J for  you"}]}`)},
		"nonsense":  {kind: banger.Unready, why: "418", fail: status(http.StatusTeapot, "no")},
	} {
		t.Run(name, func(t *testing.T) {
			r, client := ocitest.NewRegistry(t), newClient(t)
			client.Idle = 300 * time.Millisecond
			r.Push("app:1", app)
			counts := map[string]int{}
			var mu sync.Mutex
			r.Fail(func(w http.ResponseWriter, req *http.Request) bool {
				mu.Lock()
				n := counts[req.URL.Path]
				counts[req.URL.Path]++
				mu.Unlock()
				return c.fail(w, req, n)
			})
			err := pull(t.Context(), client, refOf(t, r.Host+"/app:1"), nobody)
			if c.why == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || banger.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.why) || !strings.Contains(banger.FixOf(err), c.fix) {
				t.Errorf("%v (%s), fix %q", err, banger.KindOf(err), banger.FixOf(err))
			}
			r.Fail(nil)
			if err := pull(t.Context(), client, refOf(t, r.Host+"/app:1"), nobody); err != nil {
				t.Errorf("the next one: %v", err)
			}
		})
	}
}

// firstBlob returns the digest of the largest blob.
func firstBlob() (largest banger.Digest) {
	for d, data := range app.Blobs {
		if len(data) > len(app.Blobs[largest]) {
			largest = d
		}
	}
	return largest
}

// TestDamagedPart: what a power cut has made of the beginning is noticed.
func TestDamagedPart(t *testing.T) {
	r, c := ocitest.NewRegistry(t), newClient(t)
	r.Push("app:1", app)
	d := firstBlob()
	for _, junk := range []int{1000, len(app.Blobs[d]), len(app.Blobs[d]) + 1000} {
		c.Blobs.Dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(c.Blobs.Dir, strings.TrimPrefix(string(d), "sha256:")+".part"), make([]byte, junk), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := pull(t.Context(), c, refOf(t, r.Host+"/app:1"), nobody); err != nil {
			t.Errorf("%d: %v", junk, err)
		}
	}
}

// TestPullsShareDownloads: of many pulls at a time, of several clients, each blob is
// downloaded once.
func TestPullsShareDownloads(t *testing.T) {
	r, c := ocitest.NewRegistry(t), newClient(t)
	r.Push("app:1", app)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			mine := *c
			if err := pull(t.Context(), &mine, refOf(t, r.Host+"/app:1"), nobody); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	times := 0
	for _, path := range r.Requests() {
		if strings.HasSuffix(path, string(firstBlob())) {
			times++
		}
	}
	if times != 1 {
		t.Errorf("it was downloaded %d times", times)
	}
}

// TestCredentials: a registry gets the credentials that Docker or Podman would give it,
// from their files and helpers.
func TestCredentials(t *testing.T) {
	r := ocitest.NewRegistry(t)
	r.Push("app:1", app)
	r.Fail(func(w http.ResponseWriter, req *http.Request) bool {
		user, password, _ := req.BasicAuth()
		if user == "ann" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, "", http.StatusUnauthorized)
		return true
	})
	const inline = `{"auths":{"%s":{"auth":"YW5uOnNlY3JldA=="}}}`
	helper := "#!/bin/sh\nread server\necho '{\"ServerURL\":\"'$server'\",\"Username\":\"ann\",\"Secret\":\"secret\"}'\n"
	for name, c := range map[string]struct {
		file, text string
		ok         bool
	}{
		"none":                 {"", "", false},
		"Docker's":             {".docker/config.json", fmt.Sprintf(inline, r.Host), true},
		"Podman's":             {"containers/auth.json", fmt.Sprintf(inline, r.Host), true},
		"of another registry":  {".docker/config.json", fmt.Sprintf(inline, "ghcr.io"), false},
		"of a helper":          {".docker/config.json", `{"credHelpers":{"` + r.Host + `":"bangertest"}}`, true},
		"of a store":           {".docker/config.json", `{"credsStore":"bangertest"}`, true},
		"a helper that lacks":  {".docker/config.json", `{"credsStore":"bangernone"}`, false},
		"a file that is wrong": {".docker/config.json", `{`, false},
	} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t)
			home := client.Getenv("HOME")
			bin := filepath.Dir(ocitest.File(t, nil))
			err := os.WriteFile(bin+"/docker-credential-bangertest", []byte(helper), 0o700)
			if err == nil && c.file != "" {
				if err = os.MkdirAll(filepath.Dir(filepath.Join(home, c.file)), 0o700); err == nil {
					err = os.WriteFile(filepath.Join(home, c.file), []byte(c.text), 0o600)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			err = pull(t.Context(), client, refOf(t, r.Host+"/app:1"), nobody)
			if c.ok != (err == nil) || err != nil && !strings.Contains(banger.FixOf(err), "docker login") {
				t.Errorf("%v, fix %q", err, banger.FixOf(err))
			}
		})
	}
}

// TestTokens: a registry may send to a service that gives tokens.
func TestTokens(t *testing.T) {
	r := ocitest.NewRegistry(t)
	r.Push("app:1", app)
	r.Fail(func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Path == "/token":
			fmt.Fprintf(w, `{"token":"for %s"}`, req.URL.Query().Get("scope"))
		case req.Header.Get("Authorization") == "Bearer for repository:app:pull":
			return false
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x",scope="repository:app:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	})
	if err := pull(t.Context(), newClient(t), refOf(t, r.Host+"/app:1"), nobody); err != nil {
		t.Error(err)
	}
}

// TestMirrors: a mirror is asked first; if it has nothing, the registry itself is.
func TestMirrors(t *testing.T) {
	upstream, mirror, dead := ocitest.NewRegistry(t), ocitest.NewRegistry(t), "http://127.0.0.1:1"
	upstream.Push("app:1", app)
	upstream.Push("app:2", app)
	mirror.Push("app:1", app)
	for tag, want := range map[string]bool{"1": true, "2": false} {
		c := newClient(t)
		c.Mirrors = map[string][]string{upstream.Host: {dead, "http://" + mirror.Host}}
		if err := pull(t.Context(), c, refOf(t, upstream.Host+"/app:"+tag), nobody); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
		mirror.Requests()
		if asked := upstream.Requests(); want != (len(asked) == 0) {
			t.Errorf("%s: upstream was asked for %q", tag, asked)
		}
	}
}

// TestCertificates: a registry's authority is trusted for that registry only.
func TestCertificates(t *testing.T) {
	r, server := ocitest.NewTLSRegistry(t)
	r.Push("app:1", app)
	c := newClient(t)
	ref := refOf(t, r.Host+"/app:1")
	err := pull(t.Context(), c, ref, nobody)
	if banger.KindOf(err) != banger.Unready || !strings.HasSuffix(banger.FixOf(err), "/certs.d/"+r.Host+"/ca.crt") {
		t.Errorf("%v, fix %q", err, banger.FixOf(err))
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for host, ok := range map[string]bool{"127.0.0.1:1": false, r.Host: true} {
		dir := filepath.Join(c.Getenv("HOME"), ".config/containers/certs.d", host)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/ca.crt", authority, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := pull(t.Context(), c, ref, nobody); ok != (err == nil) {
			t.Errorf("%s: %v", host, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzMessage: what a registry says is one short line that drives no terminal.
func FuzzMessage(f *testing.F) {
	f.Add(`{"errors":[{"code":"DENIED","message":"no\n\u001b[2J"}]}`)
	f.Fuzz(func(t *testing.T, answer string) {
		text := message(strings.NewReader(answer))
		if text == "" || len(text) > 200 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q", text)
		}
	})
}
