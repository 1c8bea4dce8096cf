package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger"
	"banger/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake implements the three services: it gives set answers and keeps each call.
type fake struct {
	mu    sync.Mutex
	asked []any

	vm       banger.VM
	err      error
	events   []banger.Step
	block    chan struct{}         // set: operations close it and wait until ctx ends
	unwound  chan error            // how a blocked operation ended
	undo     func(banger.Progress) // what a blocked operation does before it ends
	guest    func() (net.Conn, error)
	log      io.ReadCloser
	stopping chan struct{}
	hub      *event.Hub
}

func (f *fake) note(call ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, call...)
}

func (f *fake) operate(ctx context.Context, p banger.Progress) (banger.VM, error) {
	for _, e := range f.events {
		p.Send(e)
	}
	if f.block != nil {
		close(f.block)
		<-ctx.Done()
		if f.undo != nil {
			f.undo(p)
		}
		f.unwound <- ctx.Err()
		return banger.VM{}, ctx.Err()
	}
	return f.vm, f.err
}

func (f *fake) CreateVM(ctx context.Context, spec banger.CreateVM, p banger.Progress) (banger.VM, error) {
	f.note("create", spec)
	return f.operate(ctx, p)
}
func (f *fake) ListVMs(context.Context) ([]banger.VM, error)             { return nil, f.err }
func (f *fake) SummarizeVMs(context.Context) ([]banger.VMSummary, error) { return nil, f.err }
func (f *fake) ShowVM(_ context.Context, ref string) (banger.VM, error) {
	f.note("show", ref)
	return f.vm, f.err
}
func (f *fake) StartVM(ctx context.Context, ref string, opts banger.StartVM, p banger.Progress) (banger.VM, error) {
	f.note("start", ref, opts)
	return f.operate(ctx, p)
}
func (f *fake) StopVM(ctx context.Context, ref string, opts banger.StopVM, p banger.Progress) (banger.VM, error) {
	f.note("stop", ref, opts)
	return f.operate(ctx, p)
}
func (f *fake) RestartVM(ctx context.Context, ref string, opts banger.StopVM, p banger.Progress) (banger.VM, error) {
	f.note("restart", ref, opts)
	return f.operate(ctx, p)
}
func (f *fake) DeleteVM(ctx context.Context, ref string, opts banger.DeleteVM, p banger.Progress) error {
	f.note("delete", ref, opts)
	_, err := f.operate(ctx, p)
	return err
}
func (f *fake) WaitVM(ctx context.Context, ref string, opts banger.WaitVM, p banger.Progress) (banger.VM, error) {
	f.note("wait", ref, opts)
	return f.operate(ctx, p)
}
func (f *fake) SetVM(ctx context.Context, ref string, opts banger.SetVM, p banger.Progress) (banger.VM, error) {
	f.note("set", ref, opts)
	return f.operate(ctx, p)
}
func (f *fake) KillVM(ctx context.Context, ref string, opts banger.KillVM, p banger.Progress) (banger.VM, error) {
	f.note("kill", ref, opts)
	return f.operate(ctx, p)
}
func (f *fake) RenameVM(ctx context.Context, ref string, opts banger.RenameVM, p banger.Progress) (banger.VM, error) {
	f.note("rename", ref, opts)
	return f.operate(ctx, p)
}
func (f *fake) FsckVM(ctx context.Context, ref string, opts banger.FsckVM, p banger.Progress) (banger.Fsck, error) {
	f.note("fsck", ref, opts)
	return aFsck, f.err
}
func (f *fake) VMStats(_ context.Context, ref string) (banger.VMStats, error) {
	f.note("stats", ref)
	return aStats, f.err
}
func (f *fake) VMPorts(_ context.Context, ref string) (banger.VMPorts, error) {
	f.note("ports", ref)
	return somePorts, f.err
}
func (f *fake) VMLogs(_ context.Context, ref string, opts banger.VMLogs) (io.ReadCloser, error) {
	f.note("logs", ref, opts)
	return f.log, f.err
}
func (f *fake) DialVM(_ context.Context, ref string, port int) (net.Conn, error) {
	f.note("dial", ref, port)
	if f.err != nil {
		return nil, f.err
	}
	return f.guest()
}
func (f *fake) Daemon(context.Context) (banger.Daemon, error)             { return banger.Daemon{PID: 7}, f.err }
func (f *fake) Events(ctx context.Context) iter.Seq2[banger.Event, error] { return f.hub.Read(ctx) }
func (f *fake) RenumberNetwork(_ context.Context, opts banger.RenumberNetwork, p banger.Progress) (banger.Renumbered, error) {
	p.Send(banger.Step{Step: "renumber"})
	now, err := netip.ParsePrefix(opts.Subnet)
	return banger.Renumbered{Now: now, Later: []string{"otter"}}, err
}
func (f *fake) StopDaemon(context.Context) error { close(f.stopping); return nil }
func (f *fake) ListImages(context.Context) ([]banger.Image, error) {
	return []banger.Image{{Name: "docker", Size: banger.GiB}}, f.err
}
func (f *fake) ImportImage(ctx context.Context, spec banger.ImportImage, p banger.Progress) (banger.Image, error) {
	f.note("import", spec)
	_, err := f.operate(ctx, p)
	return banger.Image{Name: spec.Name}, err
}
func (f *fake) PullImage(ctx context.Context, spec banger.PullImage, p banger.Progress) (banger.Image, error) {
	f.note("pull", spec)
	_, err := f.operate(ctx, p)
	return banger.Image{Name: spec.Name}, err
}
func (f *fake) PruneImages(ctx context.Context, opts banger.PruneImages, p banger.Progress) (banger.Pruned, error) {
	f.note("prune", opts)
	_, err := f.operate(ctx, p)
	return banger.Pruned{Freed: banger.GiB}, err
}
func (f *fake) DeleteImage(ctx context.Context, ref string, p banger.Progress) error {
	f.note("delete image", ref)
	_, err := f.operate(ctx, p)
	return err
}
func (f *fake) BuildImage(ctx context.Context, name string, spec banger.BuildImage, p banger.Progress) (banger.BuiltImage, error) {
	f.note("build", name, spec)
	_, err := f.operate(ctx, p)
	return banger.BuiltImage{Image: banger.Image{Name: name}, Log: "/l"}, err
}
func (f *fake) CommitVM(ctx context.Context, ref string, opts banger.CommitVM, p banger.Progress) (banger.Image, error) {
	f.note("commit", ref, opts)
	_, err := f.operate(ctx, p)
	return banger.Image{Name: opts.Name}, err
}
func (f *fake) DiffVM(_ context.Context, ref string, opts banger.DiffVM, _ banger.Progress) (banger.VMDiff, error) {
	f.note("diff", ref, opts)
	return aDiff, f.err
}
func (f *fake) ListKernels(context.Context) ([]banger.Kernel, error) {
	return []banger.Kernel{{Name: "6.12"}}, f.err
}

var aStats = banger.VMStats{Name: "otter", CPUTime: time.Second, Guest: &banger.GuestStats{Load: [3]float64{1, 0.5, 0},
	FileSystems: []banger.FileSystem{{Path: "/", Size: banger.GiB}}}}

var aFsck = banger.Fsck{Name: "otter", Disks: []banger.FsckDisk{{Disk: "work", Result: banger.FsckRepaired, Copy: "/c"}}}

var aDiff = banger.VMDiff{Name: "otter", Packages: []banger.PackageChange{{Name: "jq", Now: "1"}}, Files: []banger.FileChange{{Path: "/x", Change: "added"}}}

var somePorts = banger.VMPorts{Name: "otter", Ports: []banger.Forward{{Port: 80, Addresses: []netip.AddrPort{netip.MustParseAddrPort("[::1]:80")}}}}

var quiet = slog.New(slog.DiscardHandler)

// serve starts a server of f and returns it with a client.
func serve(t *testing.T, f *fake) (*Client, *Server) {
	t.Helper()
	return serveVMs(t, f, f)
}

func serveVMs(t *testing.T, vms banger.VMService, f *fake) (*Client, *Server) {
	t.Helper()
	l, err := Listen(filepath.Join(t.TempDir(), "run", "bangerd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(vms, f, f, f, quiet)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := Dial(t.Context(), l.(*listener).path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := errors.Join(s.Shutdown(), <-served); err != nil {
			t.Error(err)
		}
		s.Release()
	})
	return c, s
}

func TestErrorsKeepEverythingAcrossTheSocket(t *testing.T) {
	if len(statuses) != len(banger.Kinds) {
		t.Errorf("%d statuses for %d kinds", len(statuses), len(banger.Kinds))
	}
	for _, kind := range banger.Kinds {
		for _, events := range [][]banger.Step{nil, {{Step: "boot"}}} {
			want := &banger.Error{Kind: kind, What: `start VM "otter"`, Why: fmt.Errorf("boot: %w", errors.New("no way")), Fix: "banger doctor"}
			c, _ := serve(t, &fake{err: want, events: events})
			_, err := c.StartVM(t.Context(), "otter", banger.StartVM{}, nil)
			if err == nil || err.Error() != want.Error() || banger.KindOf(err) != kind || banger.FixOf(err) != want.Fix {
				t.Errorf("%s, %d events: got %v (%s), fix %q", kind, len(events), err, banger.KindOf(err), banger.FixOf(err))
			}
			if _, err := c.ListImages(t.Context()); banger.KindOf(err) != kind || err.Error() != want.Error() {
				t.Errorf("%s: got %v", kind, err)
			}
		}
	}
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// TestErrorsNameTheirOperation: the operation id of an error crosses the socket.
func TestErrorsNameTheirOperation(t *testing.T) {
	for _, events := range [][]banger.Step{nil, {{Step: "boot"}}} {
		c, _ := serve(t, &fake{err: &banger.Error{Kind: banger.Conflict, What: "start", Why: io.EOF, Op: "0a1b2c3d"}, events: events})
		if _, err := c.StartVM(t.Context(), "otter", banger.StartVM{}, nil); banger.OpOf(err) != "0a1b2c3d" {
			t.Errorf("%d events: got %q of %v", len(events), banger.OpOf(err), err)
		}
	}
}

func TestErrorsWithoutKindFindOne(t *testing.T) {
	inner := &banger.Error{Kind: banger.Unready, Why: errors.New("no qemu"), Fix: "apt install it"}
	for _, test := range []struct {
		err  error
		kind banger.Kind
		fix  string
	}{
		{fmt.Errorf("launch: %w", inner), banger.Unready, "apt install it"},
		{&banger.Error{What: "start", Why: inner}, banger.Unready, "apt install it"},
		{fmt.Errorf("wait: %w", context.Canceled), banger.Canceled, ""},
		{context.DeadlineExceeded, banger.TimedOut, ""},
		{&banger.Error{What: "only what", Kind: banger.Conflict}, banger.Conflict, ""},
	} {
		c, _ := serve(t, &fake{err: test.err})
		_, err := c.ShowVM(t.Context(), "otter")
		if err == nil || err.Error() != test.err.Error() || banger.KindOf(err) != test.kind || banger.FixOf(err) != test.fix {
			t.Errorf("%v: got %v (%s), fix %q", test.err, err, banger.KindOf(err), banger.FixOf(err))
		}
	}
}

func TestEveryCallArrives(t *testing.T) {
	f := &fake{vm: banger.VM{ID: "0123456789ab", Name: "otter", State: banger.Running, Memory: banger.GiB, CreatedAt: time.Unix(5, 0).UTC()}}
	f.events = []banger.Step{{VM: "otter", Step: "create disks", Done: true, Took: time.Second}, {Step: "boot", Note: "slow here"}}
	c, _ := serve(t, f)
	ctx := t.Context()
	var events []banger.Step
	progress := func(e banger.Step) { events = append(events, e) }
	spec := banger.CreateVM{Name: "otter", VCPUs: 2, Disk: 16 * banger.GiB, NoStart: true}
	stop := banger.StopVM{Grace: time.Minute, Force: true}
	set := banger.SetVM{VCPUs: 2, Memory: banger.GiB, Disk: 2 * banger.GiB, Overlay: 3 * banger.GiB, Apply: true}
	for _, call := range []func() (banger.VM, error){
		func() (banger.VM, error) { return c.CreateVM(ctx, spec, progress) },
		func() (banger.VM, error) { return c.StartVM(ctx, "otter", banger.StartVM{Timeout: time.Hour}, nil) },
		func() (banger.VM, error) { return c.StopVM(ctx, "otter", stop, nil) },
		func() (banger.VM, error) { return c.RestartVM(ctx, "a/b ?%", stop, nil) },
		func() (banger.VM, error) { return c.SetVM(ctx, "otter", set, nil) },
		func() (banger.VM, error) { return c.KillVM(ctx, "otter", banger.KillVM{Signal: "HUP"}, nil) },
		func() (banger.VM, error) { return c.RenameVM(ctx, "otter", banger.RenameVM{Name: "wombat"}, nil) },
		func() (banger.VM, error) { return c.ShowVM(ctx, "../x") },
		func() (banger.VM, error) { return f.vm, c.DeleteVM(ctx, "otter", banger.DeleteVM{Force: true}, nil) },
	} {
		if vm, err := call(); err != nil || !reflect.DeepEqual(vm, f.vm) {
			t.Errorf("got %+v, %v", vm, err)
		}
	}
	if done, err := c.RenumberNetwork(ctx, banger.RenumberNetwork{Subnet: "10.201.0.0/20"}, nil); err != nil || done.Now.String() != "10.201.0.0/20" || len(done.Later) != 1 {
		t.Errorf("renumber: %v, %+v", err, done)
	}
	imported := banger.ImportImage{Name: "box", File: "/x.tar", Origin: "here"}
	if image, err := c.ImportImage(ctx, imported, nil); err != nil || image.Name != "box" {
		t.Errorf("got %+v, %v", image, err)
	}
	pulled := banger.PullImage{Ref: "a/b:1", Name: "box", AuthFile: "/auth.json"}
	if image, err := c.PullImage(ctx, pulled, nil); err != nil || image.Name != "box" {
		t.Errorf("got %+v, %v", image, err)
	}
	if done, err := c.PruneImages(ctx, banger.PruneImages{DryRun: true}, nil); err != nil || done.Freed != banger.GiB {
		t.Errorf("got %+v, %v", done, err)
	}
	build := banger.BuildImage{Packages: []string{"jq"}, Script: "true", Args: []string{"A=b"}, Secrets: map[string]string{"s": "x\x00"}, Size: banger.GiB}
	if built, err := c.BuildImage(ctx, "box", build, nil); err != nil || built.Image.Name != "box" || built.Log != "/l" {
		t.Errorf("got %+v, %v", built, err)
	}
	commit := banger.CommitVM{Name: "box", WithHome: true}
	if image, err := c.CommitVM(ctx, "otter", commit, nil); err != nil || image.Name != "box" {
		t.Errorf("got %+v, %v", image, err)
	}
	if diff, err := c.DiffVM(ctx, "otter", banger.DiffVM{}, nil); err != nil || !reflect.DeepEqual(diff, aDiff) {
		t.Errorf("got %+v, %v", diff, err)
	}
	if err := c.DeleteImage(ctx, "sha256:aa/b", nil); err != nil {
		t.Error(err)
	}
	for _, ref := range []string{"", ".", ".."} {
		if err := c.DeleteImage(ctx, ref, nil); banger.KindOf(err) != banger.NotFound {
			t.Errorf("delete image %q: %v", ref, err)
		}
	}
	want := []any{
		"create", spec, "start", "otter", banger.StartVM{Timeout: time.Hour}, "stop", "otter", stop,
		"restart", "a/b ?%", stop, "set", "otter", set,
		"kill", "otter", banger.KillVM{Signal: "HUP"}, "rename", "otter", banger.RenameVM{Name: "wombat"}, "show", "../x", "delete", "otter", banger.DeleteVM{Force: true},
		"import", imported, "pull", pulled, "prune", banger.PruneImages{DryRun: true}, "build", "box", build, "commit", "otter", commit, "diff", "otter", banger.DiffVM{}, "delete image", "sha256:aa/b",
	}
	if !reflect.DeepEqual(f.asked, want) {
		t.Errorf("asked %v\nwant  %v", f.asked, want)
	}
	if !reflect.DeepEqual(events, f.events) {
		t.Errorf("events %v", events)
	}
	if done, err := c.FsckVM(ctx, "otter", banger.FsckVM{Yes: true}, nil); err != nil || !reflect.DeepEqual(done, aFsck) {
		t.Errorf("fsck: %+v, %v", done, err)
	}
	if stats, err := c.VMStats(ctx, "otter"); err != nil || !reflect.DeepEqual(stats, aStats) {
		t.Errorf("got %+v, %v", stats, err)
	}
	if ports, err := c.VMPorts(ctx, "otter"); err != nil || !reflect.DeepEqual(ports, somePorts) {
		t.Errorf("got %+v, %v", ports, err)
	}
	if vms, err := c.ListVMs(ctx); err != nil || vms == nil {
		t.Errorf("got %v, %v: want an empty list", vms, err)
	}
	if vms, err := c.SummarizeVMs(ctx); err != nil || vms == nil {
		t.Errorf("got %v, %v: want an empty list", vms, err)
	}
	if kernels, err := c.ListKernels(ctx); err != nil || len(kernels) != 1 {
		t.Errorf("got %v, %v", kernels, err)
	}
	for _, ref := range []string{"", ".", ".."} {
		if _, err := c.ShowVM(ctx, ref); banger.KindOf(err) != banger.NotFound {
			t.Errorf("%q: got %v", ref, err)
		}
	}
}

func TestClientThatGoesAwayCancels(t *testing.T) {
	f := &fake{block: make(chan struct{}), unwound: make(chan error, 1)}
	c, _ := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := c.CreateVM(ctx, banger.CreateVM{Name: "otter"}, nil)
		ended <- err
	}()
	<-f.block
	cancel()
	if err := <-f.unwound; !errors.Is(err, context.Canceled) {
		t.Errorf("the operation saw %v", err)
	}
	if err := <-ended; banger.KindOf(err) != banger.Canceled {
		t.Errorf("the client saw %v", err)
	}
}

func TestShutdownUnwindsAndTellsWhy(t *testing.T) {
	f := &fake{block: make(chan struct{}), unwound: make(chan error, 1), events: []banger.Step{{Step: "boot"}}}
	c, s := serve(t, f)
	ended := make(chan error, 1)
	go func() {
		_, err := c.StartVM(t.Context(), "otter", banger.StartVM{}, nil)
		ended <- err
	}()
	<-f.block
	if err := s.Shutdown(); err != nil {
		t.Error(err)
	}
	select {
	case <-f.unwound:
	default:
		t.Error("Shutdown did not wait for the operation")
	}
	if err := <-ended; banger.KindOf(err) != banger.Canceled {
		t.Errorf("the client saw %v", err)
	}
}

func TestStopDaemonWaitsForItsEnd(t *testing.T) {
	f := &fake{stopping: make(chan struct{})}
	c, s := serve(t, f)
	ended := make(chan error, 1)
	go func() { ended <- c.StopDaemon(t.Context()) }()
	<-f.stopping
	if err := s.Shutdown(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		t.Errorf("it came back before the end: %v", err)
	default:
	}
	s.Release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestProtocolsThatDifferSaySo(t *testing.T) {
	c, _ := serve(t, &fake{})
	get := func(path, protocol string) (*http.Response, error) {
		req, err := request(t.Context(), "GET", path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(protocolHeader, protocol)
		return c.http.Do(req)
	}
	resp, err := get("/vms", "99")
	if err != nil {
		t.Fatal(err)
	}
	err = succeeded(resp)
	resp.Body.Close()
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "protocol 99") || !strings.Contains(banger.FixOf(err), "VMs keep running") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
	if resp, err = get("/daemon", "99"); err != nil || resp.StatusCode != 200 {
		t.Errorf("got %v, %v", resp, err)
	}
	resp.Body.Close()
	resp, err = get("/no/such/route", Protocol)
	if err != nil {
		t.Fatal(err)
	}
	err = succeeded(resp)
	resp.Body.Close()
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "has no GET /no/such/route") {
		t.Errorf("got %v", err)
	}
}

func TestOtherDaemonsAnswersAreRefused(t *testing.T) {
	protocol := ""
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	other := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if protocol != "" {
			w.Header().Set(protocolHeader, protocol)
			w.Header().Set(versionHeader, "9.9")
		}
		io.WriteString(w, "[]")
	})}
	go other.Serve(l)
	defer other.Close()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.ListVMs(t.Context())
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "not bangerd") {
		t.Errorf("got %v", err)
	}
	protocol = "0"
	_, err = c.ListVMs(t.Context())
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), "bangerd 9.9, speaks 0") {
		t.Errorf("got %v", err)
	}
}

func TestRequestBodies(t *testing.T) {
	s := NewServer(&fake{}, &fake{}, &fake{}, &fake{}, quiet)
	for body, want := range map[string]int{
		"": 200, "{}": 200, `{"name":"otter","field_of_a_newer_client":1}`: 200,
		"{": 400, `{"vcpus":"two"}`: 400, `{} {}`: 400, "[]": 400,
		`{"name":"` + strings.Repeat("x", maxBody) + `"}`: 400,
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", "/vms", strings.NewReader(body)))
		if w.Code != want {
			t.Errorf("%.40q: status %d, want %d", body, w.Code, want)
		}
	}
}

// TestRefusalsSayWhatToSend: an answer to a wrong request tells how to fix it.
func TestRefusalsSayWhatToSend(t *testing.T) {
	s := NewServer(&fake{}, &fake{}, &fake{}, &fake{}, quiet)
	for _, c := range []struct{ path, body, why, fix string }{
		{"/vms", "[]", "cannot unmarshal array", "send a JSON object of at most 1 MiB, or nothing"},
		{"/vms/otter/dial?port=ssh", "", `"ssh" is not a port`, "write a port between 1 and 65535"},
		{"/vms/otter/dial?port=22", "", "dial needs an upgrade", "send the headers Connection: Upgrade and Upgrade: banger-stream"},
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", c.path, strings.NewReader(c.body)))
		var got line
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Error == nil || w.Code != 400 {
			t.Errorf("%s: status %d, %s: %v", c.path, w.Code, w.Body, err)
			continue
		}
		if !strings.Contains(got.Error.Why, c.why) || got.Error.Fix != c.fix || got.Error.Op != "" {
			t.Errorf("%s: got %+v", c.path, got.Error)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"name":"otter","memory_bytes":-1}`, `{"grace_ns":1e9}`, "null", "[[[[", `{"name":"\ud800"}`} {
		for _, verb := range []string{"", "/x/start", "/x/stop", "/x/delete", "/x/dial?port=22", "/../x", "/%00/logs"} {
			f.Add(verb, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		r := httptest.NewRequest("POST", "/vms", bytes.NewReader(body))
		if parsed, err := r.URL.Parse("http://bangerd/vms" + path); err == nil {
			r.URL = parsed
		}
		w := httptest.NewRecorder()
		NewServer(&fake{}, &fake{}, &fake{}, &fake{}, quiet).ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("POST /vms%s with %q: status %d: %s", path, body, w.Code, w.Body)
		}
	})
}
