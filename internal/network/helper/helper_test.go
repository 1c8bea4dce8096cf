package helper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/linux"
	"banger/internal/network"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// The test binary is the helper, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Role {
		os.Exit(Main(os.Args[2:]))
	}
	if instance := os.Getenv(namespaceEnv); instance != "" {
		if err := playNamespace(network.Instance(instance)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(confinedEnv) != "" {
		os.Exit(tryConfined())
	}
	os.Exit(m.Run())
}

// The tests' guests have addresses of the loopback, so that a test can be one.
var (
	subnet = netip.MustParsePrefix("127.64.32.0/20")
	otter  = Name{"000000000001", "otter", netip.MustParseAddr("127.64.32.2"), false}
	badger = Name{"000000000002", "badger", netip.MustParseAddr("127.64.32.3"), false}
)

// fixture is one instance.
type fixture struct {
	*testing.T
	Config
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	state := t.TempDir()
	c := Config{
		Dir: config.NetDir(filepath.Join(state, "net")), Log: slog.New(slog.DiscardHandler), port: freePort(t),
		State: State{Instance: network.InstanceOf(state), Mode: network.Bridge, Subnet: subnet, Names: []Name{otter}, Needed: []int{os.Getpid()}},
	}
	if os.Geteuid() == 0 {
		var err error
		if c.Account, err = process.ThisHost().Account(banger.VMID(c.State.Instance)); err != nil {
			t.Skipf("root has no account for the helper here: %v; fix: run the test as a plain user", err)
		}
	}
	t.Cleanup(func() {
		if log, err := os.ReadFile(c.Dir.Log()); err == nil && t.Failed() {
			t.Logf("the helper's log:\n%s", log)
		}
	})
	return &fixture{t, c}
}

// freePort returns a port of the gateway that is free by UDP and TCP.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 20 {
		var in inheritance
		udp, err := net.ListenPacket("udp4", netip.AddrPortFrom(network.Gateway(subnet), 0).String())
		if err != nil {
			t.Fatal(err)
		}
		at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
		udp.Close()
		err = in.listen("x", at)
		in.close()
		if err == nil {
			return at.Port()
		}
	}
	t.Fatal("no port")
	return 0
}

// start starts the helper and ends it with the test.
func (f *fixture) start() *process.Process {
	f.Helper()
	p, err := Start(f.Context(), f.Config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		select {
		case <-p.Done():
		default:
			if err := p.End(); err != nil {
				f.Error(err)
			}
		}
	})
	return p
}

// lookup asks the helper as a guest does, or as the host.
func (f *fixture) lookup(name string, at netip.AddrPort) string {
	return lookupAs(f.Context(), "udp", otter.Addr, name, at)
}

// lookupAs looks a name up with Go's resolver, from an address.
func lookupAs(ctx context.Context, by string, from netip.Addr, name string, at netip.AddrPort) string {
	resolver := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		if by == "tcp" {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		return dialer.DialContext(ctx, by, at.String())
	}}
	got, err := resolver.LookupHost(ctx, name)
	if missing := (*net.DNSError)(nil); errors.As(err, &missing) && missing.IsNotFound {
		return "missing"
	}
	if err != nil {
		return err.Error()
	}
	return strings.Join(got, " ")
}

func (f *fixture) guests() netip.AddrPort { return netip.AddrPortFrom(network.Gateway(subnet), f.port) }

func (f *fixture) write(change func(*State)) {
	f.Helper()
	change(&f.State)
	if err := WriteState(f.Dir, f.State); err != nil {
		f.Fatal(err)
	}
}

// logs waits until the helper's log has a text, and returns the log.
func (f *fixture) logs(text string) {
	f.Helper()
	changed := make(chan struct{}, 1)
	stop, err := linux.Watch(f.Dir.Log(), unix.IN_MODIFY, changed)
	if err != nil {
		f.Fatal(err)
	}
	defer stop()
	for {
		log, err := os.ReadFile(f.Dir.Log())
		if err != nil {
			f.Fatal(err)
		}
		if strings.Contains(string(log), text) {
			return
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			f.Fatalf("no %q in the log", text)
		}
	}
}

func gone(t *testing.T, p *process.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the helper is still there")
	}
}

// other starts a process that needs the helper.
func other(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("cat")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// Names come and go with the file, for guests and for the host.
func TestNamesFollowTheFile(t *testing.T) {
	f := setUp(t)
	f.start()
	expect := func(name, want string) {
		t.Helper()
		for _, at := range []netip.AddrPort{f.guests(), HostAddr(f.State.Instance)} {
			if got := f.lookup(name, at); got != want {
				t.Errorf("%s at %v: %s, want %s", name, at, got, want)
			}
		}
	}
	expect("otter.vm.", "127.64.32.2")
	expect("badger.vm.", "missing")
	f.write(func(s *State) { s.Names = []Name{badger} })
	f.logs(`"msg":"state"`)
	expect("otter.vm.", "missing")
	expect("www.badger.vm.", "127.64.32.3")
	if got := f.lookup("example.org.", f.guests()); !strings.Contains(got, "misbehaving") {
		t.Errorf("without egress: %s", got)
	}
}

func TestBrokenFileIsPassedOver(t *testing.T) {
	f := setUp(t)
	f.start()
	for i, broken := range []string{"", "{", `{"names":[{"name":"../etc"}]}`, `{"subnet":"::/0"}`, "directory"} {
		if broken == "directory" {
			if err := errors.Join(os.Remove(f.Dir.State()), os.Mkdir(filepath.Join(string(f.Dir), "new"), 0o755), os.Rename(filepath.Join(string(f.Dir), "new"), f.Dir.State())); err != nil {
				t.Fatal(err)
			}
		} else if err := errors.Join(os.WriteFile(f.Dir.State()+".new", []byte(broken), 0o644), os.Rename(f.Dir.State()+".new", f.Dir.State())); err != nil {
			t.Fatal(err)
		}
		f.logs("the last state stays")
		if got := f.lookup("otter.vm.", f.guests()); got != "127.64.32.2" {
			t.Errorf("%d: %s", i, got)
		}
		if err := os.Truncate(f.Dir.Log(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(f.Dir.State()); err != nil {
		t.Fatal(err)
	}
	f.write(func(s *State) { s.Names = []Name{badger} })
	f.logs(`"msg":"state"`)
	if got := f.lookup("badger.vm.", f.guests()); got != "127.64.32.3" {
		t.Errorf("got %s", got)
	}
}

// A helper that somebody kills before it serves is started again, once.
func TestKilledWhileItStarts(t *testing.T) {
	f := setUp(t)
	kills := 1
	f.Config.started = func(p *process.Process) {
		if kills--; kills >= 0 {
			unix.Kill(p.PID(), unix.SIGKILL)
		}
	}
	f.start()
	if got := f.lookup("otter.vm.", f.guests()); got != "127.64.32.2" {
		t.Errorf("got %s", got)
	}
	other := setUp(t)
	kills, other.Config.started = 2, f.Config.started
	if _, err := Start(t.Context(), other.Config); banger.KindOf(err) != banger.Unready || !errors.Is(err, errKilled) {
		t.Errorf("killed twice: %v", err)
	}
}

// What a daemon has left of a state is removed, and nothing else.
func TestSweep(t *testing.T) {
	f := setUp(t)
	f.start()
	part, err := os.CreateTemp(string(f.Dir), statePart)
	if err != nil {
		t.Fatal(err)
	}
	part.Close()
	if err := Sweep(f.Dir); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(string(f.Dir))
	if err != nil || len(left) != 3 {
		t.Errorf("left: %v, %v; want the state, the lock and the log", left, err)
	}
	for range 2 {
		if err := Forget(f.Dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := Told(f.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("forgotten: %v", err)
	}
}

func TestOneHelper(t *testing.T) {
	f := setUp(t)
	if _, err := Find(f.Dir); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("found before it was started: %v", err)
	}
	p := f.start()
	if _, err := Start(t.Context(), f.Config); !errors.Is(err, ErrRuns) {
		t.Errorf("a second one: %v", err)
	}
	found, err := Find(f.Dir)
	if err != nil || found.PID() != p.PID() {
		t.Fatalf("found %v, %v; want %d", found, err, p.PID())
	}
	if err := End(found); err != nil {
		t.Error(err)
	}
	gone(t, p)
	f.logs(`"msg":"ended"`)
	if _, err := Find(f.Dir); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("found after its end: %v", err)
	}
	again := f.start()
	if got := f.lookup("otter.vm.", f.guests()); got != "127.64.32.2" {
		t.Errorf("the next one: %s", got)
	}
	again.Kill()
	gone(t, again)
	f.start()
}

// The helper lives as long as any of the processes that need it, and no longer.
func TestEndsWithTheLast(t *testing.T) {
	f := setUp(t)
	daemon, vm1, vm2 := other(t), other(t), other(t)
	f.State.Needed = []int{daemon.Process.Pid, vm1.Process.Pid}
	p := f.start()
	daemon.Process.Kill()
	daemon.Wait()
	f.write(func(s *State) { s.Needed = []int{vm1.Process.Pid, vm2.Process.Pid, daemon.Process.Pid} })
	f.logs(`"needed":2}`)
	vm1.Process.Kill()
	if got := f.lookup("otter.vm.", f.guests()); got != "127.64.32.2" {
		t.Errorf("got %s", got)
	}
	vm2.Process.Kill() // a zombie needs nothing
	gone(t, p)
	f.logs("nobody needs the network")
}

// A process that ends while the file drops it is told of twice.
func TestDroppedTwice(t *testing.T) {
	n := newNeeded(slog.New(slog.DiscardHandler))
	process := other(t)
	n.set([]int{process.Process.Pid})
	w := n.all[process.Process.Pid]
	if left := n.set(nil); left != 0 || n.drop(w) != 0 {
		t.Errorf("%d are left", left)
	}
	n.set([]int{process.Process.Pid})
	if left := n.drop(w); left != 1 {
		t.Error("an old one takes a new one with it")
	}
	n.set(nil)
}

func TestEndsWhenNobodyIsLeftInTheFile(t *testing.T) {
	f := setUp(t)
	p := f.start()
	f.write(func(s *State) { s.Needed = nil })
	gone(t, p)
}

func TestStartFails(t *testing.T) {
	f := setUp(t)
	left := func(what string) {
		t.Helper()
		if _, err := Find(f.Dir); !errors.Is(err, vmm.ErrGone) {
			t.Errorf("%s: left %v", what, err)
		}
	}
	f.State.Needed = []int{1 << 30} // no process
	if _, err := Start(t.Context(), f.Config); banger.KindOf(err) != banger.Unready {
		t.Errorf("nobody needs it: %v", err)
	}
	left("nobody needs it")
	f.State.Needed = []int{os.Getpid()}
	taken, err := net.ListenPacket("udp4", f.guests().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), f.Config); banger.KindOf(err) != banger.Unready || banger.FixOf(err) == "" {
		t.Errorf("a taken port: %v", err)
	}
	left("a taken port")
	taken.Close()
	f.State.Mode = network.Usernet
	if _, err := Start(t.Context(), f.Config); err == nil {
		t.Error("usernet without an uplink")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	f.Uplink = null
	if p, err := Start(t.Context(), f.Config); err == nil {
		gone(t, p)
	}
	left("an uplink that ends")
	f.State.Subnet = netip.MustParsePrefix("10.0.0.0/8")
	if _, err := Start(t.Context(), f.Config); err == nil {
		t.Error("a wrong subnet")
	}
	f.State.Subnet, f.State.Mode, f.Uplink = subnet, network.Bridge, nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err := Start(ctx, f.Config); err == nil { // it may have served by then
		p.End()
	}
	left("a context that has ended")
	if os.Geteuid() == 0 {
		f.Account = process.Account{}
		if _, err := Start(t.Context(), f.Config); err == nil {
			t.Error("it runs as root")
		}
	}
	f.Dir = config.NetDir(os.DevNull)
	if _, err := Start(t.Context(), f.Config); err == nil {
		t.Error("it runs in a file")
	}
}

// A host whose port for names is taken still serves its guests.
func TestHostPortTaken(t *testing.T) {
	f := setUp(t)
	taken, err := net.Listen("tcp4", HostAddr(f.State.Instance).String())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	f.start()
	if got := f.lookup("otter.vm.", f.guests()); got != "127.64.32.2" {
		t.Errorf("got %s", got)
	}
}

func TestRoleByHand(t *testing.T) {
	for _, args := range [][]string{{Role}, {Role, "lock", "ready", "--help"}} {
		out, err := exec.Command("/proc/self/exe", args...).CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 || len(out) == 0 {
			t.Errorf("%q: %v, %s", args, err, out)
		}
	}
}

// confinedEnv makes the test binary try what a confined process cannot do.
const confinedEnv = "BANGER_TEST_CONFINED"

// tryConfined prints what a confined process could do.
func tryConfined() int {
	if err := confine(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	for what, try := range map[string]func() error{
		"create a file": func() error { return os.WriteFile("new", nil, 0o600) },
		"write a file":  func() error { return os.WriteFile("state", []byte("x"), 0o600) },
		"read a home": func() error {
			_, err := os.ReadFile(os.Getenv(confinedEnv))
			return err
		},
		"run a program": func() error { return exec.Command("/bin/true").Run() },
		"signal":        func() error { return unix.Kill(os.Getppid(), 0) },
	} {
		if try() == nil {
			fmt.Println(what)
		}
	}
	if _, err := os.ReadFile("state"); err != nil {
		fmt.Println("not read its own directory:", err)
	}
	if _, err := os.ReadFile("/etc/passwd"); err != nil {
		fmt.Println("not read /etc:", err)
	}
	if conn, err := net.Dial("udp", "127.0.0.1:9"); err != nil {
		fmt.Println("not open a socket:", err)
	} else {
		conn.Close()
	}
	return 0
}

func TestHostAddr(t *testing.T) {
	a, b := HostAddr(network.InstanceOf("/a")), HostAddr(network.InstanceOf("/b"))
	if a == b || !a.Addr().IsLoopback() || a.Port() < 5360 || a.Port() > 5391 {
		t.Errorf("%v, %v", a, b)
	}
}

// status returns a line of a file of /proc.
func status(t *testing.T, p *process.Process, file, field string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID(), file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, field+":"); found {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in %s", field, text)
	return ""
}

// The helper is confined, small and quiet.
func TestAtRest(t *testing.T) {
	f := setUp(t)
	p := f.start()
	if title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID())); err != nil || !strings.HasPrefix(string(title), "bangerd\x00"+Role+"\x00") {
		t.Errorf("ps shows %q, %v", title, err)
	}
	if user := strings.Fields(status(t, p, "status", "Uid"))[0]; user == "0" {
		t.Error("it runs as root")
	}
	if caps := status(t, p, "status", "CapEff"); strings.Trim(caps, "0") != "" && os.Geteuid() == 0 {
		t.Errorf("it has the capabilities %s", caps)
	}
	log, err := os.ReadFile(f.Dir.Log())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "not confined") {
		t.Logf("%s", log)
	} else if got := status(t, p, "status", "NoNewPrivs"); got != "1" {
		t.Errorf("NoNewPrivs: %s", got)
	}
	f.lookup("otter.vm.", f.guests())
	f.logAtRest(p)
}

// logAtRest logs what the helper takes at rest.
func (f *fixture) logAtRest(p *process.Process) {
	f.Helper()
	if testing.Short() {
		return
	}
	switches := func() (n int) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.PID()))
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			for line := range strings.Lines(string(text)) {
				if _, count, found := strings.Cut(line, "ctxt_switches:"); found {
					k, _ := strconv.Atoi(strings.TrimSpace(count))
					n += k
				}
			}
		}
		return n
	}
	<-time.After(500 * time.Millisecond) // it is measured at rest
	before := switches()
	const measured = time.Second
	<-time.After(measured)
	kB := func(field string) string { return status(f.T, p, "smaps_rollup", field) }
	f.Logf("at rest: RSS %s, of it private %s and %s dirty; %d context switches in %v", kB("Rss"), kB("Private_Clean"), kB("Private_Dirty"), switches()-before, measured)
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"instance":"01234567","mode":"bridge","subnet":"127.64.32.0/20","names":[{"id":"000000000001","name":"otter","addr":"127.64.32.2"}],"needed":[2]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(data)
		if err != nil {
			return
		}
		s.table()
		if network.Gateway(s.Subnet); len(s.Names) > network.LastSlot {
			t.Errorf("%d names", len(s.Names))
		}
	})
}
