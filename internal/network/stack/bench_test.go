package stack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/internal/network"
	"banger/internal/network/networktest"
)

// role makes the test binary a part of a benchmark, in a process of its own.
const role = "BANGER_TEST_STACK_ROLE"

// profile is a file that the stack of a benchmark writes its CPU profile to.
const profile = "BANGER_TEST_STACK_PROFILE"

func startProfile(name string) (stop func(), err error) {
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); file.Close() }, nil
}

const benchBytes = 1 << 30

// play is what TestMain does instead of tests.
func play(role string) error {
	what, addr, _ := strings.Cut(role, " ")
	switch what {
	case "stack": // descriptor 3 is the TAP; ends with standard input
		mtu, _ := strconv.Atoi(addr)
		s, err := New(os.NewFile(3, "tap"), Options{MTU: mtu})
		if err != nil {
			return err
		}
		if name := os.Getenv(profile); name != "" {
			stop, err := startProfile(name)
			if err != nil {
				return err
			}
			defer stop()
		}
		fmt.Println("ready")
		ctx, cancel := context.WithCancel(context.Background())
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
		defer s.Close()
		return s.Run(ctx)
	case "out", "in":
		return transfer(what, addr)
	case "connect":
		start := time.Now()
		for range 2000 {
			c, err := net.Dial("tcp4", addr)
			if err != nil {
				return err
			}
			_, err = io.ReadAll(c)
			c.Close()
			if err != nil {
				return err
			}
		}
		fmt.Println(2000 / time.Since(start).Seconds())
		return nil
	}
	return fmt.Errorf("no such role: %s", role)
}

// transfer prints how many Mbit/s there were.
func transfer(direction, addr string) error {
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	start := time.Now()
	if _, err := c.Write([]byte(direction[:1])); err != nil {
		return err
	}
	if direction == "out" {
		for left, b := benchBytes, make([]byte, 256<<10); left > 0 && err == nil; left -= len(b) {
			_, err = c.Write(b)
		}
		err = errors.Join(err, c.(*net.TCPConn).CloseWrite())
		if err != nil {
			return err
		}
		if _, err = c.Read(make([]byte, 1)); err != io.EOF { // the server has it all
			return fmt.Errorf("after the last byte: %v", err)
		}
	} else if n, err := discard(c); err != nil || n != benchBytes {
		return fmt.Errorf("%d bytes, %w", n, err)
	}
	fmt.Println(benchBytes * 8 / 1e6 / time.Since(start).Seconds())
	return nil
}

func discard(r io.Reader) (total int, err error) {
	b := make([]byte, 256<<10)
	for {
		n, err := r.Read(b)
		total += n
		if err != nil {
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
	}
}

// serveBench sends or receives, as the first byte asks.
func serveBench(c *net.TCPConn) {
	what := make([]byte, 1)
	_, err := io.ReadFull(c, what)
	switch {
	case err == nil && what[0] == 'o':
		_, _ = discard(c)
	case err == nil && what[0] == 'i':
		for left, b := benchBytes, make([]byte, 256<<10); left > 0 && err == nil; left -= len(b) {
			_, err = c.Write(b)
		}
	}
}

// BenchmarkEgress measures a program in a network namespace that talks to a server
// outside: through the stack, through pasta (package passt), and with no network between.
// They run in turn. Use -benchtime 1x.
func BenchmarkEgress(b *testing.B) {
	for _, mtu := range []int{network.UplinkMTU, 1500} {
		for _, what := range []string{"out", "in", "connect"} {
			b.Run(fmt.Sprintf("%d/%s", mtu, what), func(b *testing.B) { compare(b, what, mtu) })
		}
	}
}

// The ways to the server, in the order in which they run.
const (
	byStack  = "stack"
	byPasta  = "pasta"
	directly = "direct"
)

var turns = []string{directly, byStack, byPasta, byPasta, byStack, directly}

func compare(b *testing.B, what string, mtu int) {
	if os.Getenv(inside) == "" {
		b.Skip("not in namespaces of its own: " + forbidden)
	}
	e := newEgress(b, what, mtu)
	_, noPasta := exec.LookPath(byPasta)
	if noPasta != nil {
		b.Log("pasta is missing: there is no comparison with it; fix: sudo apt-get install -y passt")
	}
	rates, cpu := map[string][]float64{}, map[string][]float64{}
	for b.Loop() {
		for _, way := range turns {
			if way == byPasta && noPasta != nil {
				continue
			}
			rate, took, err := e.measure(b, way)
			if err != nil && way == byPasta {
				b.Logf("there is no comparison with pasta, which fails: %v", err)
				noPasta = err
				continue
			}
			must(b, err)
			rates[way], cpu[way] = append(rates[way], rate), append(cpu[way], took)
		}
	}
	unit := "-Mbit/s"
	if what == "connect" {
		unit = "-connects/s"
	}
	for way, all := range rates {
		b.ReportMetric(mean(all), way+unit)
		b.ReportMetric(mean(cpu[way]), way+"-cpu-s")
	}
	if noPasta == nil {
		b.ReportMetric(mean(rates[byStack])/mean(rates[byPasta]), "stack/pasta")
		b.ReportMetric(mean(cpu[byStack])/mean(cpu[byPasta]), "cpu-stack/pasta")
	}
	b.ReportMetric(status(e.stack.Process.Pid, "VmHWM")/1024, "peak-MiB")
	b.ReportMetric(0, "ns/op")
}

func mean(all []float64) (sum float64) {
	for _, x := range all {
		sum += x
	}
	return sum / float64(len(all))
}

// egress is a client in a namespace, and its ways to a server.
type egress struct {
	*lab
	what  string
	mtu   int
	at    string // the server
	stack *exec.Cmd
}

func newEgress(b *testing.B, what string, mtu int) *egress {
	e := &egress{what: what, mtu: mtu,
		lab: &lab{guest: networktest.New(b), server: networktest.New(b), link: network.Instance("0123abcd").Uplink()}}
	must(b, e.outside())
	b.Cleanup(e.undo)
	serve := serveBench
	if what == "connect" {
		serve = func(*net.TCPConn) {}
	}
	_, port, _ := net.SplitHostPort(e.listen(b, serve))
	e.at = "192.0.2.3:" + port // pasta means the host by the gateway's address
	e.stack = e.startStack(b, mtu)
	return e
}

// measure returns the client's rate, and the CPU time of the client and of what carries
// its packets.
func (e *egress) measure(b *testing.B, way string) (rate, cpu float64, err error) {
	b.Helper()
	client, start := []string{"/proc/self/exe"}, (*exec.Cmd).Start
	switch way {
	case byStack:
		start = func(c *exec.Cmd) error { return e.guest.Do(c.Start) }
	case byPasta:
		self, err := os.Readlink("/proc/self/exe")
		must(b, err)
		client = []string{byPasta, "--config-net", "-q", "-m", strconv.Itoa(e.mtu), "--", self}
	}
	cmd := exec.Command(client[0], client[1:]...)
	cmd.Env = append(os.Environ(), role+"="+e.what+" "+e.at)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	must(b, err)
	before := cpuOf(e.stack.Process.Pid)
	must(b, start(cmd))
	text, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		return 0, 0, fmt.Errorf("%s: %w: %s", way, err, lastLine(said.String()))
	}
	rate, err = strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil {
		return 0, 0, fmt.Errorf("%s says %q: %s", way, text, lastLine(said.String()))
	}
	cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if way == byStack {
		cpu += cpuOf(e.stack.Process.Pid) - before
	}
	return rate, cpu, nil
}

// lastLine leaves out what pasta says before the client fails.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// cpuOf returns the CPU time that a process has taken, in seconds.
func cpuOf(pid int) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ
}

// startStack runs the stack in a process of its own.
func (l *lab) startStack(t testing.TB, mtu int) *exec.Cmd {
	var tap *os.File
	must(t, l.guest.Do(func() (err error) {
		tap, err = openTAP(l.link, mtu, false)
		return err
	}))
	defer tap.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=stack "+strconv.Itoa(mtu), "GOGC=50", "GOMEMLIMIT=64MiB", "GOMAXPROCS=1") // as package helper's
	cmd.ExtraFiles = []*os.File{tap}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the stack's process said %q", line)
	}
	return cmd
}

// status returns a number of a process's status.
func status(pid int, key string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return n
		}
	}
	return 0
}

// wakeUps sums the voluntary context switches of all threads.
func wakeUps(pid int) (sum float64) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		id, _ := strconv.Atoi(task.Name())
		sum += status(id, "voluntary_ctxt_switches")
	}
	return sum
}

// BenchmarkRest measures a stack that has worked and has nothing to do: how much memory
// it holds, and how often it wakes in 30 s.
func BenchmarkRest(b *testing.B) {
	if os.Getenv(inside) == "" {
		b.Skip("not in namespaces of its own: " + forbidden)
	}
	l := &lab{guest: networktest.New(b), server: networktest.New(b), link: network.Instance("0123abcd").Uplink()}
	must(b, l.outside())
	defer l.undo()
	_, port, _ := net.SplitHostPort(l.listen(b, serveBench))
	// The kernel solicits routers on each new link, which would wake us.
	must(b, l.guest.Do(func() error { return sysctl("net/ipv6/conf/default/disable_ipv6", "1") }))
	cmd := l.startStack(b, network.UplinkMTU)
	for b.Loop() {
		b.ReportMetric(status(cmd.Process.Pid, "VmRSS"), "fresh-KiB")
		for _, what := range []string{"in", "out"} {
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), role+"="+what+" 192.0.2.3:"+port)
			must(b, l.guest.Do(c.Start))
			must(b, c.Wait())
		}
		b.ReportMetric(status(cmd.Process.Pid, "VmRSS"), "loaded-KiB")
		<-time.After(20 * time.Second)
		before := wakeUps(cmd.Process.Pid)
		<-time.After(30 * time.Second)
		b.ReportMetric(wakeUps(cmd.Process.Pid)-before, "wake-ups/30s")
		b.ReportMetric(status(cmd.Process.Pid, "VmRSS"), "rest-KiB")
	}
	b.ReportMetric(0, "ns/op")
}
