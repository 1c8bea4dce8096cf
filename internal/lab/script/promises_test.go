package script

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/vmm/vmmtest"
)

// promise is a row of the table of docs/internals.md: a command whose client ends at some
// moment, and what has become of the VM N in the end. In texts, N is the VM's name.
type promise struct {
	name    string
	before  string // a line of shell
	command string
	says    string // the client's output at the moment, or
	at      string // the event at the moment
	poke    bool   // the VMM of the guest, which ignores a stop, ends afterwards
	then    string // the event that ends it; empty: the client's end does
	state   banger.State
	vcpus   int  // when it is not 1
	fresh   bool // it has another VMM than before
}

// promises by what is wrong with the guest, which makes the moment last.
var promises = map[vmmtest.Fault][]promise{
	vmmtest.NeverReady: {
		{name: "create", command: "banger vm create --name N", at: `"verb":"create","name":"N".*"step":"boot"}`,
			then: `"verb":"create","name":"N".*"ended":true`, state: banger.Gone},
		{name: "run, booting", command: "banger vm run --name N -- sleep", at: `"verb":"create","name":"N".*"step":"boot"}`,
			then: `"verb":"create","name":"N".*"ended":true`, state: banger.Gone},
		{name: "run --rm, booting", command: "banger vm run --rm --name N -- sleep", at: `"verb":"create","name":"N".*"step":"boot"}`,
			then: `"verb":"create","name":"N".*"ended":true`, state: banger.Gone},
		{name: "start", before: "banger vm create --no-start --name N", command: "banger vm start N", at: `"verb":"start","name":"N".*"step":"boot"}`,
			then: `"verb":"start","name":"N".*"ended":true`, state: banger.Stopped},
	},
	vmmtest.SlowInit: {
		{name: "create --wait", command: "banger vm create --wait boot --name N", at: `"verb":"wait for","name":"N".*"step":"starting services"}`,
			then: `"verb":"wait for","name":"N".*"ended":true`, state: banger.Booting},
		{name: "start --wait", before: "banger vm create --no-start --name N", command: "banger vm start --wait boot N", at: `"verb":"wait for","name":"N".*"step":"starting services"}`,
			then: `"verb":"wait for","name":"N".*"ended":true`, state: banger.Booting},
		{name: "wait", before: "banger vm create --name N", command: "banger vm wait --for stopped N", at: `"verb":"wait for","name":"N"`,
			then: `"verb":"wait for","name":"N".*"ended":true`, state: banger.Booting},
		{name: "run, program", command: "banger vm run --name N -- sleep", says: "N ran", state: banger.Booting},
		{name: "run --rm, program", command: "banger vm run --rm --name N -- sleep", says: "N ran", then: `"gone":true,"vm":{"id":"[^"]+","name":"N"`, state: banger.Gone},
		{name: "exec", before: "banger vm create --name N", command: "banger vm exec N -- sleep", says: "N ran", state: banger.Booting},
	},
	vmmtest.IgnoresStop: {
		{name: "stop", before: "banger vm create --name N", command: "banger vm stop N", at: `"verb":"stop","name":"N".*"step":"shutting down"}`,
			poke: true, then: `"kind":"vm","vm":{"id":"[^"]+","name":"N","state":"stopped"`, state: banger.Stopped},
		{name: "restart", before: "banger vm create --name N", command: "banger vm restart N", at: `"verb":"restart","name":"N".*"step":"shutting down"}`,
			poke: true, then: `"verb":"restart","name":"N".*"ended":true`, state: banger.Running, fresh: true},
		{name: "set --apply", before: "banger vm create --name N", command: "banger vm set --vcpu 2 --apply N", at: `"verb":"set","name":"N".*"step":"shutting down"}`,
			poke: true, then: `"verb":"set","name":"N".*"ended":true`, state: banger.Running, fresh: true},
	},
}

// ends are the ways in which a client ends before its command does.
var ends = map[string][]syscall.Signal{
	"INT": {syscall.SIGINT}, "INT twice": {syscall.SIGINT, syscall.SIGINT}, "TERM": {syscall.SIGTERM},
	"HUP": {syscall.SIGHUP}, "KILL": {syscall.SIGKILL}, "closed terminal": nil,
}

// usual are the ends that every row is tried with.
var usual = map[string]bool{"INT": true, "KILL": true, "closed terminal": true}

// TestPromises: what a command has promised does not depend on its client's life.
func TestPromises(t *testing.T) {
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		t.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	for fault, rows := range promises {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			h.env = append(h.env, faultsEnv+"="+string(fault))
			events := h.follow(t)
			n := 0
			for _, row := range rows {
				for end, signals := range ends {
					if !usual[end] && !strings.HasPrefix(row.name, "run --rm") {
						continue // the client treats them alike
					}
					n++
					row.test(t, h, events, fmt.Sprintf("%s by %s", row.name, end), fmt.Sprintf("vm-%d", n), signals)
				}
			}
			leases, _ := filepath.Glob(h.dir + "/state/banger/leases/*")
			if len(leases) > 0 {
				t.Errorf("left: %v", leases)
			}
		})
	}
}

func (p promise) test(t *testing.T, h *home, events *events, name, vm string, signals []syscall.Signal) {
	named := func(text string) string { return strings.ReplaceAll(text, "N", vm) }
	t.Run(name, func(t *testing.T) {
		h := *h
		h.t = t
		if p.before != "" {
			h.run(named(p.before))
		}
		was, _ := h.show(t, vm)
		c := h.client(t, named(p.command), signals == nil)
		if p.says != "" {
			c.await(t, named(p.says))
		} else {
			events.await(t, named(p.at))
		}
		c.end(t, signals)
		if p.poke {
			syscall.Kill(was.PID, syscall.SIGTERM)
		}
		if p.then != "" {
			events.await(t, named(p.then))
		}
		c.wait()
		now, there := h.show(t, vm)
		if there != (p.state != banger.Gone) || now.State != p.state || there && now.VCPUs != 1 {
			t.Errorf("it is there: %v, %s, with %d vCPUs; want %q", there, now.State, now.VCPUs, p.state)
		}
		if p.fresh && now.PID == was.PID {
			t.Error("it was not restarted")
		}
		if there {
			h.run("banger vm delete --yes --force " + vm)
		}
	})
}

func (h *home) show(t *testing.T, name string) (vm banger.VM, there bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "banger", "vm", "show", "--json", name)
	cmd.Env, cmd.Dir = h.env, h.dir
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 3 {
		return vm, false
	}
	if err == nil {
		err = json.Unmarshal(out, &vm)
	}
	if err != nil {
		t.Fatalf("show %s: %v\n%s", name, err, out)
	}
	return vm, true
}

// lines is text that comes line by line.
type lines struct{ text chan string }

func linesOf(r io.Reader) lines {
	l := lines{make(chan string, 1000)}
	go func() {
		defer close(l.text)
		for in := bufio.NewReader(r); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			l.text <- line
		}
	}()
	return l
}

// await returns when a line that matches has come.
func (l lines) await(t *testing.T, pattern string) {
	t.Helper()
	is := regexp.MustCompile(pattern)
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for {
		select {
		case line, more := <-l.text:
			if !more {
				t.Fatalf("the end came before %s", pattern)
			}
			if is.MatchString(line) {
				return
			}
		case <-late.C:
			t.Fatalf("waited in vain for %s", pattern)
		}
	}
}

// events are what the daemon tells of.
type events struct{ lines }

func (h *home) follow(t *testing.T) *events {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "banger", "events", "--json")
	cmd.Env, cmd.Dir = h.env, h.dir
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	e := &events{linesOf(out)}
	t.Cleanup(func() {
		cancel()
		for range e.text { // until its end
		}
		cmd.Wait()
	})
	e.await(t, `"kind":"ready"`)
	return e
}

// running is a client at work.
type running struct {
	lines
	cmd      *exec.Cmd
	terminal *os.File
}

// client begins a command, at a terminal of its own or without any.
func (h *home) client(t *testing.T, command string, terminal bool) *running {
	t.Helper()
	argv := strings.Fields(command)
	r := &running{cmd: exec.Command(argv[0], argv[1:]...)}
	r.cmd.Env, r.cmd.Dir = h.env, h.dir
	var out io.Reader
	var err error
	if terminal {
		r.terminal, err = startAtTerminal(r.cmd)
		out = r.terminal
	} else if out, err = r.cmd.StdoutPipe(); err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.lines = linesOf(out)
	return r
}

// startAtTerminal returns a terminal that Close closes, whoever reads from it.
func startAtTerminal(cmd *exec.Cmd) (*os.File, error) {
	blocking, err := pty.Start(cmd)
	if err != nil {
		return nil, err
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	return os.NewFile(uintptr(fd), "terminal"), err
}

// end ends a client by signals, or by closing its terminal.
func (r *running) end(t *testing.T, signals []syscall.Signal) {
	t.Helper()
	if r.terminal != nil {
		r.terminal.Close()
	}
	for _, signal := range signals {
		if err := r.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	}
}

func (r *running) wait() {
	late := time.AfterFunc(time.Minute, func() { r.cmd.Process.Kill() })
	defer late.Stop()
	for range r.text {
	}
	r.cmd.Wait()
}

// TestPromisesOfAKilledDaemon: the client of a temporary VM and its daemon are killed, in
// either order. The next daemon deletes the VM.
func TestPromisesOfAKilledDaemon(t *testing.T) {
	h := newHome(t)
	for i, daemonFirst := range []bool{true, false} {
		vm := fmt.Sprintf("vm-%d", i)
		c := h.client(t, "banger vm run --rm --name "+vm+" -- sleep", false)
		c.await(t, vm+" ran")
		daemon := h.daemon(t)
		if daemonFirst {
			syscall.Kill(daemon, syscall.SIGKILL)
		}
		c.end(t, []syscall.Signal{syscall.SIGKILL})
		c.wait()
		if !daemonFirst {
			syscall.Kill(daemon, syscall.SIGKILL)
		}
		limit := time.Now().Add(time.Minute)
		for _, there := h.show(t, vm); there; _, there = h.show(t, vm) {
			if time.Now().After(limit) {
				t.Fatalf("daemon first: %v: %s is left", daemonFirst, vm)
			}
		}
	}
}

// TestTemporaryOutlivesTheDaemon: as long as its client lives, the next daemon keeps a
// temporary VM, and the client deletes it in the end.
func TestTemporaryOutlivesTheDaemon(t *testing.T) {
	h := newHome(t)
	c := h.client(t, "banger vm run --rm --name otter -- sleep", false)
	c.await(t, "otter ran")
	syscall.Kill(h.daemon(t), syscall.SIGKILL)
	if vm, there := h.show(t, "otter"); !there || !vm.State.Up() || !vm.Temporary {
		t.Errorf("with another daemon: %v, %+v", there, vm)
	}
	c.end(t, []syscall.Signal{syscall.SIGTERM})
	c.wait()
	if code := c.cmd.ProcessState.ExitCode(); code != 143 {
		t.Errorf("exit %d", code)
	}
	if _, there := h.show(t, "otter"); there {
		t.Error("it is left")
	}
}

// daemon returns the daemon's process.
func (h *home) daemon(t *testing.T) int {
	t.Helper()
	dirs, err := config.DirsFrom(func(key string) string { return homeEnv(h.dir)[key] })
	if err != nil {
		t.Fatal(err)
	}
	record, err := api.ReadRecord(dirs.DaemonLock())
	if err != nil || record.PID <= 1 {
		t.Fatal(record, err)
	}
	return record.PID
}

// TestHeldDaemon: a client that ends before the daemon has heard of its command has
// changed nothing.
func TestHeldDaemon(t *testing.T) {
	h := newHome(t)
	h.makeArchives()
	h.run("banger vm create --name otter --no-start")
	daemon := h.daemon(t)
	for _, command := range []string{"banger vm delete --yes otter", "banger vm rename otter badger", "banger image import box rootfs.tar", "banger vm run --rm -- true", "banger vm start otter"} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
			syscall.Kill(daemon, syscall.SIGSTOP)
			c := h.client(t, command, false)
			c.end(t, []syscall.Signal{signal})
			c.wait()
			syscall.Kill(daemon, syscall.SIGCONT)
		}
	}
	if got := h.run("exec 2>/dev/null; banger vm list -q; banger image list | cut -d' ' -f1 | tail -n +2; ls -A state/banger/images | grep new; ls state/banger/leases 2>/dev/null; true"); got != "otter\ndocker\n" {
		t.Errorf("got %q", got)
	}
	if vm, _ := h.show(t, "otter"); vm.State != banger.Stopped {
		t.Errorf("it is %s", vm.State)
	}
}

// TestImportOfAnUnfinishedArchive: a client that ends while it reads its standard input
// leaves nothing.
func TestImportOfAnUnfinishedArchive(t *testing.T) {
	h := newHome(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGKILL} {
		cmd := exec.Command("banger", "image", "import", "box", "-")
		cmd.Env, cmd.Dir = h.env, h.dir
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(make([]byte, 1<<20)); err != nil { // more than a pipe holds: it reads
			t.Error(err)
		}
		cmd.Process.Signal(signal)
		cmd.Wait()
	}
	if got := h.run("banger image list 2>/dev/null | cut -d' ' -f1 | tail -n +2; ls -A cache/banger | grep import; ls -A state/banger/images | grep new; true"); got != "docker\n" {
		t.Errorf("got %q", got)
	}
}

// TestImportEndsAtEachStep: a client that ends before the last step of its import leaves
// nothing.
func TestImportEndsAtEachStep(t *testing.T) {
	h := newHome(t)
	h.makeArchives()
	h.run("head -c 40000000 /dev/urandom >tree/bin/large && tar -C tree -cf rootfs.tar .")
	h.run("banger vm create --no-start --name vm") // which brings the image of the bundle
	events := h.follow(t)
	for _, step := range []string{"check the name", "read the archive", "write the file system", "record"} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			c := h.client(t, "banger image import image-vm rootfs.tar", false)
			events.await(t, `"verb":"import","name":"image-vm".*"step":"`+step+`"`)
			c.end(t, []syscall.Signal{signal})
			events.await(t, `"verb":"import","name":"image-vm".*"ended":true`)
			c.wait()
			if wrong := (brief{}).wrong(t, h, "vm"); wrong != "" {
				t.Errorf("%s, %v: %s", step, signal, wrong)
			}
			imported := strings.Contains(h.run("banger image list"), "image-vm ")
			if imported && step != "record" { // which may have been done by then
				t.Errorf("%s, %v: the image is there", step, signal)
			}
			if imported {
				h.run("banger image delete image-vm")
			}
		}
	}
}
