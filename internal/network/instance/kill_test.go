package instance

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/config"
	"banger/internal/network"
	"banger/internal/network/apply"
	"banger/internal/network/helper"
	"banger/internal/network/namespace"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// What the test binary is besides the test.
const (
	roleEnv  = "BANGER_TEST_INSTANCE" // a daemon or a look, in a state directory
	standIn  = "stand-in"             // a VMM
	dirEnv   = "BANGER_TEST_DIR"
	guestEnv = "BANGER_TEST_GUESTS" // that run, as JSON by pid
)

func TestMain(m *testing.M) {
	namespace.RunRole(namespace.Work{
		Lock:     apply.Lock,
		Apply:    func(ctx context.Context, w network.Wanted) (any, error) { return apply.Apply(ctx, w) },
		Counters: func(i network.Instance) (any, error) { return apply.Counters(i) },
		Uplink:   apply.OpenUplink,
	})
	if len(os.Args) > 1 && os.Args[1] == helper.Role {
		os.Exit(helper.Main(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == standIn {
		os.Exit(ended(playVMM(os.Args[2])))
	}
	switch os.Getenv(roleEnv) {
	case "start":
		os.Exit(ended(play(start)))
	case "busy":
		os.Exit(ended(play(busy)))
	case "check", "refused":
		os.Exit(ended(play(check)))
	case "end":
		os.Exit(ended(play(end)))
	case "look":
		os.Exit(ended(look()))
	}
	os.Exit(m.Run())
}

func ended(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err, banger.FixOf(err))
	return 1
}

// playVMM holds a TAP until it is killed.
func playVMM(tap string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq(tap)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("open %s: %w", tap, err)
	}
	fmt.Println("holds", tap)
	select {}
}

// play opens a network as a daemon does, and takes over the stand-ins that run.
func play(act func(*Network, map[int]network.Guest) error) error {
	running := map[int]network.Guest{}
	if err := json.Unmarshal([]byte(os.Getenv(guestEnv)), &running); err != nil {
		return err
	}
	dirs := config.Dirs{State: os.Getenv(dirEnv)}
	n, err := Open(context.Background(), Config{Dirs: dirs, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Subnet:  func(context.Context) (netip.Prefix, error) { return netip.MustParsePrefix("10.201.16.0/20"), nil },
		Account: func() (process.Account, error) { return process.ThisHost().Account("helper") },
	})
	if err != nil {
		return err
	}
	if n.Mode() == network.None {
		return n.Why()
	}
	if os.Getenv(roleEnv) == "refused" { // as by a host that was too busy to try it
		n.mode, n.why = network.None, errors.New("refused")
	}
	if err := n.Adopt(context.Background(), running); err != nil {
		return fmt.Errorf("adopt: %w", err)
	}
	return errors.Join(act(n, running), n.Close())
}

func guestOf(n *Network, i int) network.Guest {
	return network.Guest{ID: banger.VMID(fmt.Sprintf("%012x", i)), Addr: n.Addr(network.FirstSlot + i), Egress: true}
}

// start starts stand-ins, and prints which.
func start(n *Network, running map[int]network.Guest) error {
	dir, err := process.OpenDir(os.Getenv(dirEnv))
	if err != nil {
		return err
	}
	for i := range 3 {
		g := guestOf(n, i)
		nic, inside, _, err := n.Attach(context.Background(), "", g)
		if err != nil {
			return err
		}
		said, theirs, err := os.Pipe()
		if err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		p, err := dir.Start(process.Command{Program: self, Args: []string{standIn, nic.Tap}, Output: theirs, Inside: inside})
		theirs.Close()
		if err != nil {
			return err
		}
		if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || !strings.HasPrefix(line, "holds") {
			return fmt.Errorf("a stand-in says %q, %w", line, err)
		}
		if err := n.Launched(g.ID, p.PID()); err != nil {
			return err
		}
		running[p.PID()] = g
	}
	return json.NewEncoder(os.Stdout).Encode(running)
}

// busy changes the network until it is killed.
func busy(n *Network, running map[int]network.Guest) error {
	fmt.Println("busy")
	ctx := context.Background()
	for i := 0; ; i++ {
		for _, g := range running {
			n.Set(ctx, g.ID, i%2 == 0, i%3 == 0) // fails if apply is killed
		}
		extra := guestOf(n, 100+i%5)
		n.Attach(ctx, "", extra)
		n.Name(extra.ID, fmt.Sprint("extra", i), 102, true)
		n.Detach(ctx, extra.ID)
		n.Forget(extra.ID)
	}
}

// check prints the guests that have a TAP.
func check(n *Network, _ map[int]network.Guest) error {
	traffic, err := n.Traffic(context.Background())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(traffic)
}

// end takes everything away, as the ends of all VMs do.
func end(n *Network, running map[int]network.Guest) error {
	for _, g := range running {
		if _, err := n.Detach(context.Background(), g.ID); err != nil {
			return err
		}
	}
	if _, err := helper.Find(n.Dirs.Net()); !errors.Is(err, vmm.ErrGone) {
		return fmt.Errorf("the helper is there: %w", err)
	}
	return nil
}

// killLab is the daemons of one state directory.
type killLab struct {
	*testing.T
	dir     string
	running map[int]network.Guest
	program string // of its daemons; empty: this one
}

func newKillLab(t *testing.T) *killLab {
	t.Helper()
	// What is orphaned becomes this process's child, so it is seen.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := namespace.Check(t.Context()); err != nil {
		t.Skipf("no namespace with a TAP here: %v; fix: %s", err, banger.FixOf(err))
	}
	return &killLab{T: t, dir: reachable(t, t.TempDir()), running: map[int]network.Guest{}}
}

// start has a daemon start stand-ins, and end.
func (l *killLab) start() {
	l.Helper()
	if err := json.Unmarshal(l.must("start"), &l.running); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(l.killAll)
}

func (l *killLab) command(role string) *exec.Cmd {
	l.Helper()
	guests, err := json.Marshal(l.running)
	if err != nil {
		l.Fatal(err)
	}
	cmd := exec.Command(cmp.Or(l.program, "/proc/self/exe"))
	cmd.Env = append(os.Environ(), roleEnv+"="+role, dirEnv+"="+l.dir, guestEnv+"="+string(guests), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = &bytes.Buffer{}
	return cmd
}

// must runs a daemon to its end, and returns what it prints.
func (l *killLab) must(role string) []byte {
	l.Helper()
	cmd := l.command(role)
	out, err := cmd.Output()
	if err != nil {
		l.Fatalf("%s: %v\n%s", role, err, cmd.Stderr)
	}
	return out
}

func (l *killLab) look() string {
	l.Helper()
	for pid := range l.running {
		cmd := l.command("look")
		cmd.Path, cmd.Args = "/usr/bin/nsenter", []string{"nsenter", fmt.Sprintf("--user=/proc/%d/ns/user", pid), fmt.Sprintf("--net=/proc/%d/ns/net", pid), "--preserve-credentials", "/proc/self/exe"}
		self, err := os.Executable()
		if err != nil {
			l.Fatal(err)
		}
		cmd.Args[len(cmd.Args)-1] = self
		out, err := cmd.Output()
		if err != nil {
			l.Fatalf("look: %v\n%s", err, cmd.Stderr)
		}
		return string(out)
	}
	return ""
}

// children returns the children of a process.
func children(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			child, _ := strconv.Atoi(field)
			pids = append(pids, child)
		}
	}
	return pids
}

// victim returns a process to kill: the daemon's apply or the helper, or 0 if there is
// none just now.
func (l *killLab) victim(daemon int, kind string) int {
	if kind == "helper" {
		p, err := helper.Find(config.Dirs{State: l.dir}.Net())
		if err != nil {
			return 0
		}
		defer p.Close()
		return p.PID()
	}
	for _, pid := range children(daemon) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if bytes.HasSuffix(line, []byte("\x00"+namespace.Role+"\x00")) {
			return pid
		}
	}
	return 0
}

// rounds is how many kills there are.
func rounds(t *testing.T) int {
	if n, err := strconv.Atoi(os.Getenv("BANGER_TEST_ROUNDS")); err == nil {
		return n
	}
	if testing.Short() {
		return 5
	}
	return 20
}

// Whatever is killed, and whenever: the next daemon takes the network over as it was, and
// in the end nothing is left.
func TestKills(t *testing.T) {
	l := newKillLab(t)
	l.start()
	before := l.look()
	kinds := map[string]int{}
	for range rounds(t) {
		what := l.round()
		kinds[what]++
		var have map[banger.VMID]network.Traffic
		if err := json.Unmarshal(l.must("check"), &have); err != nil {
			t.Fatal(err)
		}
		if len(have) != len(l.running) {
			t.Errorf("after %s: TAPs of %v, want those of %v", what, have, l.running)
		}
		if now := l.look(); now != before {
			t.Fatalf("after %s:\n%s\nbefore:\n%s", what, now, before)
		}
	}
	t.Logf("killed: %v", kinds)
	l.must("end")
	l.killAll()
	if left := children(os.Getpid()); len(left) > 0 {
		for _, pid := range left {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			t.Errorf("process %d is left: %q", pid, line)
		}
	}
}

// round kills a part of a busy daemon at a random moment, or all of it, and then the
// daemon. It returns which.
func (l *killLab) round() (what string) {
	l.Helper()
	daemon := l.command("busy")
	out, err := daemon.StdoutPipe()
	if err != nil {
		l.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		l.Fatal(err)
	}
	what = []string{"daemon", "starting daemon", "helper", "apply"}[rand.IntN(4)]
	if what != "starting daemon" {
		if _, err := io.ReadFull(out, make([]byte, len("busy\n"))); err != nil {
			daemon.Wait()
			l.Fatalf("%v\n%s", err, daemon.Stderr)
		}
	}
	<-time.After(rand.N(100 * time.Millisecond)) // the moment
	if what == "helper" || what == "apply" {
		if pid := l.victim(daemon.Process.Pid, what); pid != 0 {
			unix.Kill(pid, unix.SIGKILL)
		} else {
			what = "no " + what
		}
		<-time.After(rand.N(50 * time.Millisecond))
	}
	daemon.Process.Kill()
	daemon.Wait()
	return what
}

// killAll kills the stand-ins and waits for everything that this process has inherited
// from daemons.
func (l *killLab) killAll() {
	for pid := range l.running {
		unix.Kill(pid, unix.SIGKILL)
	}
	l.running = nil
	deadline := time.Now().Add(20 * time.Second)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return
		case err == nil && pid == 0:
			if time.Now().After(deadline) {
				return
			}
			<-time.After(10 * time.Millisecond) // a helper is just finding out that nobody needs it
		}
	}
}
