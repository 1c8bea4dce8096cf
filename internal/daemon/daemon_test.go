package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/event"
	"banger/internal/hostcmd"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// TestMain lets the test binary be bangerd, so that tests can start real processes.
func TestMain(m *testing.M) {
	if os.Getenv("BANGERD_TEST") != "" {
		os.Exit(Main(context.Background(), Env{Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, Open: openFake, Isolate: isolateFake}, os.Args[1:]))
	}
	os.Exit(m.Run())
}

type fakeImages struct{ banger.ImageService }

type fakeBuilds struct{ banger.BuildService }

// fakeVMs is a service without VMs. CreateVM waits until it is cancelled, and then
// writes a file, to show that it was undone.
type fakeVMs struct {
	banger.VMService
	state string
}

func (f fakeVMs) ListVMs(context.Context) ([]banger.VM, error) { return nil, nil }

func (f fakeVMs) SummarizeVMs(context.Context) ([]banger.VMSummary, error) {
	return []banger.VMSummary{{State: banger.Running}, {State: banger.Stopped}, {State: banger.Booting}}, nil
}

func (f fakeVMs) CreateVM(ctx context.Context, spec banger.CreateVM, p banger.Progress) (banger.VM, error) {
	p.Send(banger.Step{Step: "wait"})
	<-ctx.Done()
	if spec.Name == "hold" { // the test decides how long the undo takes
		if _, err := os.ReadFile(filepath.Join(f.state, "hold")); err != nil {
			return banger.VM{}, err
		}
	}
	return banger.VM{}, errors.Join(ctx.Err(), os.WriteFile(filepath.Join(f.state, "undone"), nil, 0o600))
}

func openFake(_ context.Context, _ Env, dirs config.Dirs, _ config.Config, _ *slog.Logger) (Services, error) {
	if why := os.Getenv("BANGERD_TEST_FAIL"); why != "" {
		return Services{}, &banger.Error{Kind: banger.Unready, What: "open the parts", Why: errors.New(why), Fix: "mend it"}
	}
	if why := os.Getenv("BANGERD_TEST_BUG"); why != "" {
		return Services{}, errors.New(why)
	}
	return Services{VMs: fakeVMs{state: dirs.State}, Images: fakeImages{}, Builds: fakeBuilds{}, Events: event.NewHub(), Drivers: vmm.Drivers{qemu.New(hostcmd.Host{})}, Close: func() error { return nil }}, nil
}

// isolateFake moves nobody, and says so.
func isolateFake(_ context.Context, id string, pid int) error {
	return fmt.Errorf("process %d has no group for %s", pid, id)
}

// place is a set of directories, and how to start daemons there.
type place struct {
	t    *testing.T
	dirs config.Dirs
	opts api.ConnectOptions
}

func newPlace(t *testing.T, extra ...string) place {
	t.Helper()
	root := t.TempDir()
	env := map[string]string{"HOME": root, "XDG_RUNTIME_DIR": filepath.Join(root, "run")}
	if err := os.Mkdir(env["XDG_RUNTIME_DIR"], 0o700); err != nil {
		t.Fatal(err)
	}
	p := place{t: t}
	var err error
	if p.dirs, err = config.DirsFrom(func(key string) string { return env[key] }); err != nil {
		t.Fatal(err)
	}
	if p.opts.Program, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	// The race detector makes a program sleep for a second before it ends.
	p.opts.Env = append(extra, "BANGERD_TEST=1", "GORACE=atexit_sleep_ms=0")
	for key, value := range env {
		p.opts.Env = append(p.opts.Env, key+"="+value)
	}
	t.Cleanup(p.end)
	return p
}

// end stops the daemon that is left, and removes its temporary directory.
func (p place) end() {
	if c, err := api.Connect(context.Background(), p.dirs, api.ConnectOptions{NoStart: true}); err == nil {
		d, err := c.Daemon(context.Background())
		if err := errors.Join(err, c.StopDaemon(context.Background())); err != nil {
			p.t.Error(err)
		}
		syscall.Wait4(d.PID, nil, 0, nil)
		c.Close()
		if _, err := os.Lstat(filepath.Dir(p.dirs.SpareSocket())); !errors.Is(err, os.ErrNotExist) {
			p.t.Errorf("a daemon that was stopped leaves its temporary directory: %v", err)
		}
	} else if record, err := api.ReadRecord(p.dirs.DaemonLock()); err == nil {
		if l, err := admit(context.Background(), p.dirs.DaemonLock()); err == nil {
			l.close()
		} else {
			p.t.Errorf("daemon %d is left and not found", record.PID)
			syscall.Kill(record.PID, syscall.SIGKILL)
		}
	}
	os.RemoveAll(filepath.Dir(p.dirs.SpareSocket()))
	if p.t.Failed() {
		if log, err := os.ReadFile(p.dirs.Log()); err == nil {
			p.t.Logf("bangerd.log:\n%s", log)
		}
	}
}

func (p place) connect() *api.Client {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	c, err := api.Connect(ctx, p.dirs, p.opts)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return c
}

func (p place) daemon(c *api.Client) banger.Daemon {
	p.t.Helper()
	d, err := c.Daemon(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func TestStartStatusStop(t *testing.T) {
	p := newPlace(t)
	none, err := api.Connect(t.Context(), p.dirs, api.ConnectOptions{NoStart: true})
	if banger.KindOf(err) != banger.NotFound || none != nil {
		t.Fatalf("before any start: %v, %v", none, err)
	}
	c := p.connect()
	d := p.daemon(c)
	if d.PID == os.Getpid() || d.Socket != p.dirs.Socket() || d.Log != p.dirs.Log() || d.State != p.dirs.State || d.Driver != "qemu" || d.Running != 2 {
		t.Errorf("got %+v", d)
	}
	if vms, err := c.ListVMs(t.Context()); err != nil || vms == nil || len(vms) != 0 {
		t.Errorf("got %v, %v", vms, err)
	}
	for path, mode := range map[string]os.FileMode{
		p.dirs.State: 0o700, p.dirs.Runtime: 0o700, p.dirs.Socket(): 0o600, p.dirs.Log(): 0o600, p.dirs.DaemonLock(): 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	if err := c.StopDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Afterwards there is no socket, and the lock is free.
	if _, err := os.Lstat(p.dirs.Socket()); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	l, err := admit(t.Context(), p.dirs.DaemonLock())
	if err != nil {
		t.Fatalf("the lock is held: %v", err)
	}
	l.close()
}

func TestClientsAtTheSameTimeGetOneDaemon(t *testing.T) {
	p := newPlace(t)
	pids := make([]int, 6)
	errs := make([]error, len(pids))
	var all sync.WaitGroup
	for i := range pids {
		all.Go(func() {
			c, err := api.Connect(t.Context(), p.dirs, p.opts)
			if errs[i] = err; err != nil {
				return
			}
			defer c.Close()
			var d banger.Daemon
			d, errs[i] = c.Daemon(t.Context())
			pids[i] = d.PID
		})
	}
	all.Wait()
	for i := range pids {
		if errs[i] != nil || pids[i] != pids[0] {
			t.Errorf("client %d: daemon %d, not %d; %v", i, pids[i], pids[0], errs[i])
		}
	}
}

func TestKilledDaemonIsReplaced(t *testing.T) {
	p := newPlace(t)
	first := p.daemon(p.connect())
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, first.PID)
	if _, err := os.Lstat(p.dirs.Socket()); err != nil {
		t.Fatalf("the stale socket is part of the test: %v", err)
	}
	if second := p.daemon(p.connect()); second.PID == first.PID || second.Socket != first.Socket {
		t.Errorf("got %+v after %+v", second, first)
	}
}

func TestSignalStops(t *testing.T) {
	p := newPlace(t)
	first := p.daemon(p.connect())
	if err := syscall.Kill(first.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(first.PID, &status, 0, nil); err != nil || !status.Exited() || status.ExitStatus() != 0 {
		t.Errorf("status %v, %v", status, err)
	}
	if _, err := os.Lstat(p.dirs.Socket()); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// await waits for the end of a child that was killed.
func await(t *testing.T, pid int) {
	t.Helper()
	proc, err := os.FindProcess(pid)
	if err == nil {
		_, err = proc.Wait()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestStartDuringStopWaits(t *testing.T) {
	p := newPlace(t)
	c := p.connect()
	first := p.daemon(c)
	hold := filepath.Join(p.dirs.State, "hold")
	if err := syscall.Mkfifo(hold, 0o600); err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	go c.CreateVM(t.Context(), banger.CreateVM{Name: "hold"}, func(banger.Step) { close(begun) })
	<-begun
	stopping := onEvent(t, p.dirs.Runtime, unix.IN_DELETE) // of the socket: from now on nobody can connect
	stopped := make(chan error, 1)
	go func() { stopped <- c.StopDaemon(t.Context()) }()
	stopping()
	second := make(chan *api.Client, 1)
	go func() {
		c, err := api.Connect(t.Context(), p.dirs, p.opts)
		if err != nil {
			t.Error(err)
		}
		second <- c
	}()
	select {
	case <-second:
		t.Fatal("a second daemon came while the first was stopping")
	case err := <-stopped:
		t.Errorf("the first daemon went before its operation was undone: %v", err)
	case <-time.After(100 * time.Millisecond): // neither may happen, so there is no event to wait for
	}
	if err := os.WriteFile(hold, []byte("go"), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	fresh := <-second
	if t.Failed() {
		return
	}
	defer fresh.Close()
	if d := p.daemon(fresh); d.PID == first.PID {
		t.Errorf("daemon %d still answers", first.PID)
	}
}

func TestSecondDaemonNamesTheFirst(t *testing.T) {
	p := newPlace(t)
	first := p.daemon(p.connect())
	_, err := admit(t.Context(), p.dirs.DaemonLock())
	if banger.KindOf(err) != banger.Conflict || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", first.PID)) || !strings.Contains(err.Error(), first.Socket) {
		t.Errorf("got %v", err)
	}
}

func TestShellWithoutRuntimeDirFindsTheDaemon(t *testing.T) {
	p := newPlace(t)
	first := p.daemon(p.connect())
	p.dirs.Runtime = filepath.Join(t.TempDir(), "elsewhere")
	p.opts.NoStart = true
	if d := p.daemon(p.connect()); d.PID != first.PID {
		t.Errorf("got %+v", d)
	}
}

func TestTwoStatesOneRuntimeDir(t *testing.T) {
	a, b := newPlace(t), newPlace(t)
	first := a.daemon(a.connect())
	b.dirs.Runtime = a.dirs.Runtime
	for i, pair := range b.opts.Env {
		if strings.HasPrefix(pair, "XDG_RUNTIME_DIR=") {
			b.opts.Env[i] = "XDG_RUNTIME_DIR=" + filepath.Dir(a.dirs.Runtime)
		}
	}
	second := b.daemon(b.connect())
	if second.PID == first.PID || second.State != b.dirs.State || second.Socket != b.dirs.SpareSocket() {
		t.Errorf("got %+v beside %+v", second, first)
	}
	if d := a.daemon(a.connect()); d.PID != first.PID {
		t.Errorf("the first is not found any more: %+v", d)
	}
}

func TestStopUnwindsOperations(t *testing.T) {
	p := newPlace(t)
	c := p.connect()
	begun, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := c.CreateVM(t.Context(), banger.CreateVM{}, func(banger.Step) { close(begun) })
		ended <- err
	}()
	<-begun
	if err := p.connect().StopDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(p.dirs.State, "undone")); err != nil {
		t.Errorf("the operation was not unwound: %v", err)
	}
	if err := <-ended; banger.KindOf(err) != banger.Canceled {
		t.Errorf("its client heard %v", err)
	}
}

func TestLogIsJSONAndRotates(t *testing.T) {
	p := newPlace(t)
	if err := os.MkdirAll(p.dirs.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.dirs.Log(), make([]byte, maxLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	p.connect()
	log, err := os.ReadFile(p.dirs.Log())
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		var entry map[string]any
		if err := json.Unmarshal(line, &entry); err != nil || entry["msg"] == nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if info, err := os.Stat(p.dirs.OldLog()); err != nil || info.Size() != int64(maxLog)+1 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestFlags(t *testing.T) {
	var out bytes.Buffer
	env := Env{Stdout: &out, Stderr: io.Discard}
	if code := Main(t.Context(), env, []string{"--version"}); code != 0 || !strings.HasPrefix(out.String(), "bangerd ") {
		t.Errorf("%d, %q", code, out.String())
	}
	if code := Main(t.Context(), env, []string{"--nonsense"}); code != 2 {
		t.Errorf("code %d", code)
	}
}
