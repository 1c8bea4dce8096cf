package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/internal/network"
)

// role makes the test binary a part of a benchmark, in a process of its own.
const role = "BANGER_TEST_STACK_ROLE"

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
		_, err = c.Read(make([]byte, 1)) // the server has it all
		if err != io.EOF {
			return err
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
// outside: through the stack, through pasta (package passt), and with no network
// between. Run it with -benchtime 1x -count 3.
func BenchmarkEgress(b *testing.B) {
	for _, mtu := range []int{network.UplinkMTU, 1500} {
		for _, how := range []string{"stack", "pasta", "direct"} {
			for _, what := range []string{"out", "in", "connect"} {
				b.Run(fmt.Sprintf("%s/%d/%s", how, mtu, what), func(b *testing.B) { benchEgress(b, how, what, mtu) })
			}
		}
	}
}

func benchEgress(b *testing.B, how, what string, mtu int) {
	if os.Getenv(inside) == "" {
		b.Skip("not in namespaces of its own: " + forbidden)
	}
	l := &lab{guest: newNetns(b), server: newNetns(b), link: network.Instance("0123abcd").Uplink()}
	must(b, l.outside())
	defer l.undo()
	serve := serveBench
	if what == "connect" {
		serve = func(*net.TCPConn) {}
	}
	_, port, _ := net.SplitHostPort(l.listen(b, serve))
	client := []string{"/proc/self/exe"}
	start := func(c *exec.Cmd) error { return c.Start() }
	var helper *exec.Cmd
	switch how {
	case "stack":
		helper = l.startStack(b, mtu)
		start = func(c *exec.Cmd) error { return l.guest.do(c.Start) }
	case "pasta":
		if _, err := exec.LookPath("pasta"); err != nil {
			b.Skip("no pasta: enable with apt-get install passt")
		}
		self, err := os.Readlink("/proc/self/exe")
		must(b, err)
		client = []string{"pasta", "--config-net", "-q", "-m", strconv.Itoa(mtu), "--", self}
	}
	var sum float64
	for b.Loop() {
		cmd := exec.Command(client[0], client[1:]...)
		cmd.Env = append(os.Environ(), role+"="+what+" 192.0.2.3:"+port)
		if how != "pasta" { // which complains about the single user here, and goes on
			cmd.Stderr = os.Stderr
		}
		out, err := cmd.StdoutPipe()
		must(b, err)
		must(b, start(cmd))
		text, _ := io.ReadAll(out)
		must(b, cmd.Wait())
		rate, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		must(b, err)
		sum += rate
	}
	unit := "Mbit/s"
	if what == "connect" {
		unit = "connects/s"
	}
	b.ReportMetric(sum/float64(b.N), unit)
	b.ReportMetric(0, "ns/op")
	if helper != nil {
		b.ReportMetric(status(helper.Process.Pid, "VmHWM"), "peak-KiB")
	}
}

// startStack runs the stack in a process of its own.
func (l *lab) startStack(t testing.TB, mtu int) *exec.Cmd {
	var tap *os.File
	must(t, l.guest.do(func() (err error) {
		tap, err = openTAP(l.link, mtu, false)
		return err
	}))
	defer tap.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=stack "+strconv.Itoa(mtu))
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
	l := &lab{guest: newNetns(b), server: newNetns(b), link: network.Instance("0123abcd").Uplink()}
	must(b, l.outside())
	defer l.undo()
	_, port, _ := net.SplitHostPort(l.listen(b, serveBench))
	// The kernel solicits routers on each new link, which would wake us.
	must(b, l.guest.do(func() error { return sysctl("net/ipv6/conf/default/disable_ipv6", "1") }))
	cmd := l.startStack(b, network.UplinkMTU)
	for b.Loop() {
		b.ReportMetric(status(cmd.Process.Pid, "VmRSS"), "fresh-KiB")
		for _, what := range []string{"in", "out"} {
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), role+"="+what+" 192.0.2.3:"+port)
			must(b, l.guest.do(c.Start))
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
