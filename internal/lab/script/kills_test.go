package script

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/network"
	"banger/internal/network/namespace"
	"banger/internal/vmm/vmmtest"
)

const (
	killsEnv = "BANGER_TEST_INSIDE" // makes TestNetworkOutlivesKills the one who kills; its value is the directory
	aloneEnv = "BANGER_TEST_ALONE"  // set where nobody else changes the network
	lifeEnv  = "BANGER_FAKE_LIFE"   // how long the VMMs of a daemon live at most
)

// TestNetworkOutlivesKills kills daemon, helper, apply, VMMs and clients at random moments of all
// verbs. Each VM keeps its address and MAC, what runs has its network, and nothing is
// left that no VM owns. BANGER_TEST_ROUNDS says how often, for each mode.
func TestNetworkOutlivesKills(t *testing.T) {
	if dir := os.Getenv(killsEnv); dir != "" {
		newKills(t, dir).run()
		return
	}
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		t.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	t.Run("usernet", func(t *testing.T) { alone(t, false) })
	t.Run("bridge", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root has a network in bridge mode; fix: sudo make torture")
		}
		alone(t, true)
	})
}

// alone runs the test in a process that inherits what is orphaned. Root's is in a network
// of its own, as root or as a plain user.
func alone(t *testing.T, asRoot bool) {
	dir, err := os.MkdirTemp("", "banger-kills-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dirs, err := config.DirsFrom(homeGetenv(dir))
		if err := errors.Join(err, endAll(dirs), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	program := filepath.Join(dir, "bin", "test")
	if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(filepath.Dir(program), 0o755), os.Mkdir(filepath.Join(dir, "tmp"), 0o700), copySelf(program),
		os.Link(program, filepath.Join(dir, "bin", "bangerd")), os.Link(program, filepath.Join(dir, "bin", "banger"))); err != nil {
		t.Fatal(err)
	}
	limit := time.Hour
	if end, ok := t.Deadline(); ok {
		limit = time.Until(end) - 10*time.Second
	}
	cmd := exec.Command(program, "-test.run=^"+strings.Split(t.Name(), "/")[0]+"$", "-test.v", "-test.timeout="+limit.String())
	cmd.Env = append(os.Environ(), killsEnv+"="+dir, "TMPDIR="+dir+"/tmp", "HOME="+dir)
	if os.Geteuid() == 0 {
		separate(t)
		cmd.Env = append(cmd.Env, aloneEnv+"=1")
		if !asRoot {
			const nobody = 65534
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, nobody, nobody))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	said, err := cmd.CombinedOutput()
	t.Logf("%s", said)
	if err != nil {
		t.Error(err)
	} else if strings.Contains(string(said), "--- SKIP") {
		t.Skip("see above")
	}
}

func copySelf(to string) error {
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// separate gives this thread, which this goroutine keeps, a network of its own in which
// everybody may open TAPs, and from which the host's D-Bus is not found.
func separate(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespaces
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		t.Skipf("root has no network of its own here: %v", err)
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if _, missing := os.Stat("/run/dbus"); missing == nil {
		err = errors.Join(err, unix.Mount("tmpfs", "/run/dbus", "tmpfs", 0, ""))
	}
	lo, errLo := unix.NewIfreq("lo")
	socket, errSocket := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err := errors.Join(err, errLo, errSocket); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
	vmmtest.OpenTunToAll(t)
}

func homeGetenv(dir string) func(string) string {
	env := homeEnv(dir)
	return func(key string) string { return env[key] }
}

// kills is a home whose daemons, helpers, applies and VMMs are killed.
type kills struct {
	*testing.T
	dirs     config.Dirs
	opts     api.ConnectOptions
	instance network.Instance
	mode     network.Mode
	random   *rand.Rand
	killed   map[string]int // how often what was killed

	fallen string // the VM whose VMM this round has killed

	clientPID int // of the command that is at work

	client *api.Client
	daemon int                           // its pid
	subnet netip.Prefix                  // of all VMs
	vms    map[string]banger.VM          // as they were shown last, by name
	places map[banger.VMID]place         // what VMs have for life
	took   map[banger.Verb]time.Duration // how long each verb takes undisturbed
}

func newKills(t *testing.T, dir string) *kills {
	// What is orphaned becomes this process's child, so it is seen.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	k := &kills{T: t, mode: network.Usernet, killed: map[string]int{}, vms: map[string]banger.VM{}, places: map[banger.VMID]place{}, took: map[banger.Verb]time.Duration{}}
	if os.Geteuid() == 0 {
		k.mode = network.Bridge
	} else if err := namespace.Check(t.Context()); err != nil {
		t.Skipf("no namespace with a TAP here: %v; fix: %s", err, banger.FixOf(err))
	}
	var err error
	if k.dirs, err = config.DirsFrom(homeGetenv(dir)); err != nil {
		t.Fatal(err)
	}
	k.instance = network.InstanceOf(k.dirs.State)
	k.opts.Program = filepath.Join(dir, "bin", "bangerd")
	k.opts.Env = []string{"PATH=" + os.Getenv("PATH"), lifeEnv + "=1h"}
	for key, value := range homeEnv(dir) {
		if key == "BANGER_NETWORK" {
			value = "auto"
		}
		k.opts.Env = append(k.opts.Env, key+"="+value)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("BANGER_TEST_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("BANGER_TEST_SEED=%d", seed)
	k.random = rand.New(rand.NewPCG(seed, 0))
	if err := fillHome(dir, "6.12-fake"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.end)
	return k
}

// end shows the log of a test that failed, and kills what is left of it.
func (k *kills) end() {
	if k.Failed() {
		log, _ := os.ReadFile(k.dirs.Log())
		k.Logf("%s:\n%s", k.dirs.Log(), log[max(0, len(log)-20_000):])
	}
	if err := endAll(k.dirs); err != nil {
		k.Error(err)
	}
}

// rounds is how many rounds there are.
func (k *kills) rounds() int {
	text := os.Getenv("BANGER_TEST_ROUNDS")
	if text == "" {
		return 6
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		k.Fatal(err)
	}
	return n
}

func (k *kills) run() {
	host := k.host()
	k.connect()
	for _, v := range []verb{k.create("otter", nil), k.create("wombat", new(bool)), k.renumber(), k.set("otter"), k.restart("wombat"), k.stop("otter"), k.start("otter"), k.create("extra", nil), k.remove("extra")} {
		k.undisturbed(v)
	}
	kinds := []string{"daemon", "helper", "apply", "VMM", "client"}
	for i := range k.rounds() {
		k.round(kinds[i%len(kinds)])
	}
	for name := range k.vms {
		k.undisturbed(k.remove(name))
	}
	if now := k.host(); now != host && os.Getenv(aloneEnv) != "" {
		k.Errorf("the host was:\n%s\nis:\n%s", host, now)
	}
	if err := k.client.StopDaemon(k.Context()); err != nil {
		k.Error(err)
	}
	k.daemon = 0
	k.check("everything")
	k.Logf("killed: %v", k.killed)
}

// undisturbed runs a verb that nobody disturbs, and learns how long it takes.
func (k *kills) undisturbed(v verb) {
	k.Helper()
	began := time.Now()
	err := v.do(k.Context(), k.client)
	if err != nil {
		k.Fatalf("%s: %v", v, err)
	}
	k.took[v.Verb] = time.Since(began)
	k.checkAfter(v, err, v.String())
}

// round kills one process at a random moment of a random verb, and afterwards the
// daemon. It checks everything after each.
func (k *kills) round(kind string) {
	k.Helper()
	v := k.choose()
	ctx, cancel := context.WithTimeout(k.Context(), time.Minute)
	defer cancel()
	var err error
	ended := make(chan struct{})
	do := func() error { return v.do(ctx, k.client) }
	if kind == "client" {
		cmd, err := v.command(ctx, k.opts)
		if err != nil {
			k.Fatal(err)
		}
		k.clientPID, do = cmd.Process.Pid, cmd.Wait
	}
	go func() {
		defer close(ended)
		err = do()
	}()
	moment := time.Duration(k.random.Int64N(int64(k.took[v.Verb])))
	if kind == "apply" { // the next one from then on, which is mostly the first of few
		moment /= 4
	}
	what, whose := k.killAt(kind, moment, ended)
	<-ended
	k.fallen = whose
	about := fmt.Sprintf("%s, %s killed after %v", v, what, moment.Round(time.Millisecond))
	k.Logf("%s: %v", about, err)
	switch {
	case what == "daemon":
		k.connect()
	case err != nil && what != "client" && (what != "VMM" || whose != v.target): // they can be replaced, so nobody notices
		k.Errorf("%s: %v (fix: %s)", about, err, banger.FixOf(err))
	}
	k.checkAfter(v, err, about)
	k.checkAfter(v, err, about+", then "+k.replaceDaemon())
	if k.Failed() {
		k.FailNow()
	}
}

// replaceDaemon kills the daemon and has a client start another one, which may be killed
// in turn, or its apply or the helper. It returns what was killed.
func (k *kills) replaceDaemon() string {
	k.Helper()
	k.kill(k.daemon)
	k.killed["daemon"]++
	also := []string{"", "", "daemon", "apply", "helper"}[k.random.IntN(5)]
	if also == "" {
		k.connect()
		return "the daemon"
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c, err := api.Connect(k.Context(), k.dirs, k.opts); err == nil { // fails if its daemon is killed
			c.Close()
		}
	}()
	k.daemon = k.starting(ended)
	moment := time.Duration(k.random.Int64N(int64(200 * time.Millisecond)))
	what, _ := k.killAt(also, moment, ended)
	<-ended
	k.connect()
	return fmt.Sprintf("the daemon, then %s killed %v after the next one began", what, moment.Round(time.Millisecond))
}

// connect connects to the daemon, and starts one if none runs.
func (k *kills) connect() {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), time.Minute)
	defer cancel()
	c, err := api.Connect(ctx, k.dirs, k.opts)
	if err != nil {
		k.Fatalf("%v (fix: %s)", err, banger.FixOf(err))
	}
	d, err := c.Daemon(ctx)
	if err != nil {
		k.Fatal(err)
	}
	k.client, k.daemon = c, d.PID
}
