package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banger"
)

var (
	content = bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	whole   = banger.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(content)))
)

// server serves the content with http.ServeContent and records the requests.
type server struct {
	*httptest.Server
	asked  atomic.Int32
	ranges []string
}

func serve(t *testing.T, handle func(n int32, w http.ResponseWriter, r *http.Request)) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ranges = append(s.ranges, r.Header.Get("Range"))
		handle(s.asked.Add(1), w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func good(_ int32, w http.ResponseWriter, r *http.Request) {
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// tear sends only a part of the announced length.
func tear(w http.ResponseWriter, from, to int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(content[from:to])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func (s *server) file() File { return File{URL: s.URL + "/file", Digest: whole, Max: banger.MiB} }

func check(t *testing.T, c Cache, path string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if left := names(t, c.Dir); len(left) != 1 {
		t.Errorf("the cache holds %v", left)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

func TestGetDownloadsOnce(t *testing.T) {
	s := serve(t, good)
	var told []int64
	c := Cache{Dir: filepath.Join(t.TempDir(), "deep", "downloads"), Tell: func(done, of int64) { told = []int64{done, of} }}
	for range 2 {
		path, err := c.Get(t.Context(), s.file())
		check(t, c, path, err)
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	if s.asked.Load() != 1 || fmt.Sprint(told) != fmt.Sprint([]int{len(content), len(content)}) {
		t.Errorf("asked %d times, told %v", s.asked.Load(), told)
	}
	if err := os.WriteFile(c.Path(whole), []byte("rotten"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := c.Get(t.Context(), s.file())
	check(t, c, path, err)
}

func TestBrokenConnectionsAreResumed(t *testing.T) {
	s := serve(t, func(n int32, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			tear(w, 0, 100_000)
		case 2:
			tear(w, 100_000, 200_000)
		}
		good(n, w, r)
	})
	c := Cache{Dir: t.TempDir()}
	path, err := c.Get(t.Context(), s.file())
	check(t, c, path, err)
	if got := fmt.Sprint(s.ranges); got != "[ bytes=100000- bytes=200000-]" {
		t.Errorf("asked for %s", got)
	}
}

func TestALaterCallResumes(t *testing.T) {
	s := serve(t, func(n int32, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			tear(w, 0, 100_000)
		case 2:
			http.Error(w, "no", http.StatusServiceUnavailable)
		default:
			good(n, w, r)
		}
	})
	c := Cache{Dir: t.TempDir()}
	_, err := c.Get(t.Context(), s.file())
	if unreachable := (*UnreachableError)(nil); !errors.As(err, &unreachable) || !strings.Contains(err.Error(), "503") {
		t.Fatalf("got %v", err)
	}
	path, err := c.Get(t.Context(), s.file())
	check(t, c, path, err)
	if s.ranges[2] != "bytes=100000-" {
		t.Errorf("asked for %v", s.ranges)
	}
}

func TestWholePartsNeedNoMore(t *testing.T) {
	s := serve(t, good)
	c := Cache{Dir: t.TempDir()}
	if err := os.WriteFile(c.Path(whole)+".part", content, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := c.Get(t.Context(), s.file())
	check(t, c, path, err)
}

func TestServerWithoutRanges(t *testing.T) {
	s := serve(t, func(n int32, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			tear(w, 0, 100_000)
		}
		w.Write(content)
	})
	c := Cache{Dir: t.TempDir()}
	path, err := c.Get(t.Context(), s.file())
	check(t, c, path, err)
}

func TestOtherContentIsNotKept(t *testing.T) {
	other := bytes.ToUpper(content)
	for name, handle := range map[string]func(int32, http.ResponseWriter, *http.Request){
		"other": func(_ int32, w http.ResponseWriter, _ *http.Request) { w.Write(other) },
		"short": func(_ int32, w http.ResponseWriter, _ *http.Request) { w.Write(content[:1000]) },
		"resumed with other": func(n int32, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				tear(w, 0, 100_000)
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(other))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := Cache{Dir: t.TempDir()}
			_, err := c.Get(t.Context(), serve(t, handle).file())
			wrong := (*DigestError)(nil)
			if !errors.As(err, &wrong) || wrong.Got == wrong.Want ||
				!strings.Contains(err.Error(), string(wrong.Got)) || !strings.Contains(err.Error(), string(whole)) {
				t.Errorf("got %v", err)
			}
			if left := names(t, c.Dir); len(left) != 0 {
				t.Errorf("kept %v", left)
			}
		})
	}
}

func TestBadAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		says   string
		handle func(int32, http.ResponseWriter, *http.Request)
	}{
		"not there": {"404", func(_ int32, w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }},
		"endless":   {"larger than", func(_ int32, w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 2<<20)) }},
		"another range": {"bytes 5-9", func(n int32, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				tear(w, 0, 1000)
			}
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(http.StatusPartialContent)
		}},
		"silent": {"sent nothing", func(_ int32, w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
		"nothing at all": {"EOF", func(int32, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := Cache{Dir: t.TempDir(), Idle: 200 * time.Millisecond}
			_, err := c.Get(t.Context(), serve(t, test.handle).file())
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(c.Path(whole)); err == nil {
				t.Error("it was kept")
			}
		})
	}
}

func TestCancelKeepsWhatCame(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	s := serve(t, func(n int32, w http.ResponseWriter, r *http.Request) {
		if n > 1 {
			good(n, w, r)
			return
		}
		w.Write(content[:100_000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := Cache{Dir: t.TempDir(), Tell: func(int64, int64) { once.Do(cancel) }}
	if _, err := c.Get(ctx, s.file()); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	path, err := c.Get(t.Context(), s.file())
	check(t, c, path, err)
	if !strings.HasPrefix(s.ranges[1], "bytes=") {
		t.Errorf("asked for %v", s.ranges)
	}
}

func TestTwoAtOnceShareADownload(t *testing.T) {
	s := serve(t, good)
	c := Cache{Dir: t.TempDir()}
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		all.Go(func() { _, errs[i] = c.Get(t.Context(), s.file()) })
	}
	all.Wait()
	check(t, c, c.Path(whole), errors.Join(errs...))
	if s.asked.Load() != 1 {
		t.Errorf("asked %d times", s.asked.Load())
	}
}

func TestWaitingForAnotherEndsWithTheContext(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	other, err := openLocked(t.Context(), c.Path(whole)+".part")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := c.Get(ctx, File{URL: "http://nowhere.invalid", Digest: whole}); done <- err }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestOnlyDigestsNameFiles(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	for _, digest := range []banger.Digest{"", "sha256:../../x", "sha256:" + banger.Digest(strings.Repeat("G", 64))} {
		if _, err := c.Get(t.Context(), File{URL: "http://nowhere.invalid", Digest: digest}); err == nil {
			t.Errorf("%q was taken", digest)
		}
	}
}
