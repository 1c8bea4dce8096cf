//go:build vm

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// netns is a network namespace. A process holds it, so that it leaves no name behind. The
// zero netns is this machine's own.
type netns struct{ pid int }

func newNetns(t *testing.T) netns {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	holder := exec.Command("cat")
	in, err := holder.StdinPipe() // its end ends the holder
	if err != nil {
		t.Fatal(err)
	}
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		holder.Wait()
	})
	return netns{holder.Process.Pid}
}

// enter returns the command that runs another one inside.
func (n netns) enter() []string {
	if n.pid == 0 {
		return nil
	}
	return []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", n.pid), "--"}
}

func (n netns) sh(t *testing.T, script string) string {
	t.Helper()
	argv := append(n.enter(), "sh", "-euc", script)
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// do runs a function inside. Sockets that it opens stay there.
func (n netns) do(t *testing.T, f func() error) {
	t.Helper()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid))
		if err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// volatile are settings that come with the kernel's modules, or change by themselves.
var volatile = regexp.MustCompile(`(?m)^(net\.netfilter\.|net\.nf_conntrack_max ).*\n`)

// state returns the links, addresses, routes, rules and settings of the host.
func (b *bridged) state(t *testing.T) string {
	t.Helper()
	return volatile.ReplaceAllString(b.host.sh(t, `ip -o link; ip -o addr | cut -d ' ' -f 2-7
ip rule; ip -4 route show table all; ip -6 route | sed 's/ expires [0-9]*sec//'; nft -s list ruleset
for save in iptables-legacy-save ip6tables-legacy-save; do
	! command -v $save >/dev/null || { $save || true; } | sed '/^#/d; s/\[.*\]//'
done
sysctl -a --pattern '^net\.' 2>/dev/null | sort`), "") + resolver(t)
}

// current is the server that systemd-resolved has asked last.
var current = regexp.MustCompile(`(?m)^ *Current DNS Server: .*\n`)

// resolver returns what this machine's systemd-resolved was told, if it runs.
func resolver(t *testing.T) string {
	t.Helper()
	return current.ReplaceAllString(netns{}.sh(t, `ls -l /etc/resolv.conf; cat /etc/resolv.conf
[ ! -S /run/systemd/resolve/io.systemd.Resolve ] || resolvectl --no-pager status`), "")
}

// unchanged checks the host against an earlier state. systemd-resolved learns of links a
// moment after they have gone.
func (b *bridged) unchanged(t *testing.T, before string) {
	t.Helper()
	now := b.state(t)
	for end := time.Now().Add(5 * time.Second); now != before && time.Now().Before(end); now = b.state(t) {
		time.Sleep(200 * time.Millisecond)
	}
	if now == before {
		return
	}
	for _, line := range beyond(now, before) {
		t.Errorf("it is left on the host, or differs: %s", line)
	}
	for _, line := range beyond(before, now) {
		t.Errorf("the host has lost: %s", line)
	}
}

// beyond returns the lines that one text has more often than another.
func beyond(text, other string) (lines []string) {
	count := map[string]int{}
	for line := range strings.Lines(other) {
		count[line]++
	}
	for line := range strings.Lines(text) {
		if count[line]--; count[line] < 0 {
			lines = append(lines, line)
		}
	}
	return lines
}
