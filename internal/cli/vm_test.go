package cli

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger"
)

func TestCreatePassesTheFlagsOnAndPrintsTheState(t *testing.T) {
	f := newFake()
	f.run(t, setup{}, "vm", "create", "--name", "otter", "--memory", "2048", "--disk-size", "32", "--overlay-size", "4G", "--vcpu", "2", "--driver", "auto", "--network", "none", "--nat", "--no-start").
		want(t, 0, "otter: created, not started\n", "")
	want := `create {"name":"otter","vcpus":2,"memory_bytes":2147483648,"disk_bytes":34359738368,"overlay_bytes":4294967296,"driver":"auto","no_start":true,"network":"none","nat":true}`
	if f.took[0] != want {
		t.Errorf("got %s, want %s", f.took[0], want)
	}
	f.run(t, setup{}, "vm", "create", "-v").want(t, 0, "made-up-1: running\n", "boot ... 1.2s\n")
	f.run(t, setup{}, "vm", "create", "--name", "otter").
		want(t, 4, "", "banger: create VM \"otter\": the name is taken\nfix: choose another --name\n")
}

func TestCreateOnATerminalSaysHowToGoOn(t *testing.T) {
	r := newFake().run(t, setup{tty: true}, "vm", "create", "--name", "otter")
	if r.code != 0 || !strings.HasPrefix(r.out, "otter: running after ") || !strings.Contains(r.errOut, "disks: / 8G (packages, Docker), /root 16G\nnext: banger vm ssh otter\n") {
		t.Errorf("%+v", r)
	}
}

func TestJSON(t *testing.T) {
	f := newFake()
	r := f.run(t, setup{tty: true}, "vm", "create", "--name", "otter", "--json")
	var vm banger.VM
	if err := json.Unmarshal([]byte(r.out), &vm); err != nil || vm.Name != "otter" || vm.Memory != banger.GiB || r.errOut != "" {
		t.Errorf("%v, %+v", err, r)
	}
	newFake().run(t, setup{}, "vm", "list", "--json").want(t, 0, "[]\n", "")
	for _, args := range [][]string{{"vm", "show", "nobody", "--json"}, {"vm", "stop", "--json", "nobody"}, {"vm", "create", "--json", "--name", "Bad"}, {"vm", "create", "--bogus", "--json"}} {
		r := newFake().run(t, setup{}, args...)
		var got struct{ Error errorJSON }
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Error.Kind == "" || got.Error.Why == "" || got.Error.Fix == "" || r.errOut != "" || r.code < 2 {
			t.Errorf("%v: %v, %+v", args, err, r)
		}
	}
	r = f.run(t, setup{}, "vm", "delete", "--json", "--yes", "--force", "otter", "nobody")
	decoder := json.NewDecoder(strings.NewReader(r.out))
	var first deleted
	var second failure
	if decoder.Decode(&first) != nil || decoder.Decode(&second) != nil || !first.Deleted || second.Name != "nobody" || second.Error.Kind != banger.NotFound || r.code != 3 {
		t.Errorf("%+v", r)
	}
}

func TestSeveralNamesKeepTheirOrderAndTheWorstCode(t *testing.T) {
	f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
	f.run(t, setup{}, "vm", "stop", "wombat", "nobody", "otter", "otter").want(t, 4, "otter: stopped\n",
		"banger: stop VM \"wombat\": the VM is stopped\nbanger: show VM \"nobody\": there is no such VM\nfix: banger vm list\n")
	f.run(t, setup{}, "vm", "start", "otter", "wombat").want(t, 0, "otter: running\nwombat: running\n", "")
	f.run(t, setup{}, "vm", "restart", "otter").want(t, 0, "otter: running\n", "")
}

func TestDeleteAsks(t *testing.T) {
	f := newFake(aVM("otter", banger.Stopped), aVM("wombat", banger.Running))
	const unasked = "banger: not deleting without confirmation: stdin is not a terminal\nfix: "
	f.run(t, setup{}, "vm", "delete", "otter").want(t, 2, "", unasked+"banger vm delete --yes otter\n")
	f.run(t, setup{}, "vm", "delete", "wombat").want(t, 2, "", unasked+"banger vm delete --yes --force wombat\n")
	f.run(t, setup{}, "vm", "delete", "--all").want(t, 2, "", unasked+"banger vm delete --yes --force otter wombat\n")
	r := f.run(t, setup{tty: true, in: "n\n"}, "vm", "rm", "otter")
	if r.code != 1 || !strings.Contains(r.errOut, "Delete otter and all its data? [y/N] ") || len(f.vms) != 2 {
		t.Errorf("%+v, %v", r, f.vms)
	}
	if r := f.run(t, setup{tty: true}, "vm", "delete", "otter"); r.code != 1 || len(f.vms) != 2 {
		t.Errorf("no answer deleted: %+v", r)
	}
	if r := f.run(t, setup{tty: true, in: "y\n"}, "vm", "delete", "nobody"); r.code != 3 || strings.Contains(r.errOut, "[y/N]") {
		t.Errorf("asked about nobody: %+v", r)
	}
	if r := f.run(t, setup{tty: true, in: "yes\n"}, "vm", "delete", "otter"); r.code != 0 || r.out != "otter: deleted\n" {
		t.Errorf("%+v", r)
	}
	f.run(t, setup{}, "vm", "delete", "-y", "wombat").want(t, 4, "",
		"banger: cannot delete VM \"wombat\" while it is running\nfix: banger vm stop wombat, or banger vm delete --yes --force wombat\n")
	f.run(t, setup{}, "vm", "delete", "-y", "--force", "wombat").want(t, 0, "wombat: deleted\n", "")
}

// TestDeleteLooksBeforeItAsks: a running VM takes one question and no --force.
func TestDeleteLooksBeforeItAsks(t *testing.T) {
	f := newFake(aVM("otter", banger.Running))
	r := f.run(t, setup{tty: true, in: "y\n"}, "vm", "delete", "otter")
	if r.code != 0 || r.out != "otter: deleted\n" || !strings.HasPrefix(r.errOut, "otter is running. Stop it and delete all its data? [y/N] ") {
		t.Errorf("%+v", r)
	}
	for _, c := range []struct {
		found, running []string
		want           string
	}{
		{[]string{"a", "b"}, nil, "Delete a, b and all their data?"},
		{[]string{"a", "b"}, []string{"b"}, "b is running. Stop it and delete a, b and all their data?"},
		{[]string{"a", "b", "c"}, []string{"b", "c"}, "b, c are running. Stop them and delete a, b, c and all their data?"},
	} {
		if got := deleteQuestion(c.found, c.running); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// afterwards runs a function before each line that it reads.
type afterwards struct {
	io.Reader
	do func()
}

func (a afterwards) Read(p []byte) (int, error) {
	a.do()
	return a.Reader.Read(p)
}

// TestAnswersAreAboutTheVMOfTheQuestion: while a person thinks, another VM gets the name.
func TestAnswersAreAboutTheVMOfTheQuestion(t *testing.T) {
	for _, verb := range []string{"delete", "fsck"} {
		f := newFake(aVM("otter", banger.Stopped), aVM("vole", banger.Stopped))
		asked := f.vms["otter"].ID
		moved := func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			was, now := f.vms["otter"], f.vms["vole"]
			was.Name, now.Name = "gone", "otter"
			f.vms = map[string]banger.VM{"gone": was, "otter": now}
		}
		r := f.run(t, setup{tty: true, stdin: afterwards{strings.NewReader("y\n"), sync.OnceFunc(moved)}}, "vm", verb, "otter")
		if r.code != 0 {
			t.Errorf("%s: %+v", verb, r)
		}
		_, kept := f.vms["gone"]
		if last := f.took; verb == "fsck" && !strings.HasPrefix(last[len(last)-1], "fsck "+string(asked)) || verb == "delete" && (kept || len(f.vms) != 1) {
			t.Errorf("%s: of another VM: %q, %v", verb, f.took, f.vms)
		}
	}
}

// TestVerbsSayWhatChanged: a command that changed nothing says so.
func TestVerbsSayWhatChanged(t *testing.T) {
	f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
	f.idempotent = true
	f.run(t, setup{tty: true}, "vm", "start", "otter").want(t, 0, "otter: already running\n", "\r\x1b[K")
	f.down = time.Second // it was shutting down
	if r := f.run(t, setup{}, "vm", "start", "otter"); r.code != 0 || strings.Contains(r.out, "already") {
		t.Errorf("%+v", r)
	}
	f.run(t, setup{tty: true}, "vm", "stop", "wombat").want(t, 0, "wombat: already stopped\n", "\r\x1b[K")
	for ending, want := range map[banger.Ending]string{banger.EndedPoweroff: "stopped", banger.EndedUnclean: "stopped, not cleanly (unclean: the work disk has errors)",
		banger.EndedKilled: "stopped, not cleanly (killed: the work disk has errors)"} {
		deaf := aVM("deaf", banger.Running)
		deaf.Ending, deaf.EndingBy = ending, "the work disk has errors"
		newFake(deaf).run(t, setup{}, "vm", "stop", "deaf").want(t, 0, "deaf: "+want+"\n", "")
		newFake(deaf).run(t, setup{}, "vm", "stop", "--force", "deaf").want(t, 0, "deaf: "+strings.Replace(want, ", not cleanly (killed: the work disk has errors)", "", 1)+"\n", "")
	}
	bear := aVM("bear", banger.Booting)
	f = newFake(aVM("otter", banger.Running), bear)
	f.idempotent, f.made = true, bear
	f.run(t, setup{}, "vm", "start", "bear").want(t, 0, "bear: already booting\n", "")
	if r := f.run(t, setup{tty: true}, "vm", "create", "--name", "fox"); !strings.HasPrefix(r.out, "bear: ssh works after ") || !strings.HasSuffix(r.out, "s; services are still starting\n") {
		t.Errorf("%+v", r)
	}
	for milestone, want := range map[string]string{"agent": "ssh works", "boot": "booted", "stopped": "stopped"} {
		f.run(t, setup{}, "vm", "wait", "--for", milestone, "otter").want(t, 0, "otter: "+want+"\n", "")
	}
}

func TestListAndShow(t *testing.T) {
	crashed := aVM("wombat", banger.Stopped)
	crashed.Ending, crashed.EndingBy = banger.EndedCrashed, "Kernel panic\x1b[2J - not syncing"
	otter := aVM("otter", banger.Running)
	otter.BootID = "\x1b]52;c;eA==\a"
	otter.Problems = []banger.Problem{{Kind: banger.ProblemDisk, Disk: "work", Text: "work disk\x1b has errors", Fix: "banger vm restart otter"},
		{Kind: banger.ProblemDisk, Disk: "overlay", Text: "so has the overlay"}}
	f := newFake(otter, crashed)
	f.run(t, setup{}, "vm", "ls").want(t, 0, "NAME    STATE                  IMAGE   VCPUS  MEMORY  DISK  AGE\n"+
		"otter   running (disk errors)  docker  1      1G      16G   3h\n"+
		"wombat  stopped (crashed)      docker  1      1G      16G   3h\n", "")
	f.run(t, setup{}, "vm", "list", "-q").want(t, 0, "otter\nwombat\n", "")
	r := f.run(t, setup{}, "vm", "show", "wombat", "otter")
	if !strings.Contains(r.out, "\nproblem    work disk? has errors\nfix        banger vm restart otter\nproblem    so has the overlay\nimage ") {
		t.Errorf("%+v", r)
	}
	if strings.ContainsAny(r.out, "\x1b\a") || !strings.Contains(r.out, "last end   crashed: Kernel panic?[2J - not syncing\n") {
		t.Errorf("%+v", r)
	}
}

func TestSSHBecomesTheUsersOwn(t *testing.T) {
	f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
	r := f.run(t, setup{}, "vm", "ssh", "otter", "--", "ls", "-l")
	argv := strings.Split(strings.TrimSuffix(r.out, "\n"), "\x1f")
	if argv[0] != "ssh" || strings.Join(argv[len(argv)-3:], " ") != "otter.vm ls -l" || !strings.Contains(r.out, "'vm' 'proxy'") {
		t.Errorf("%+v", r)
	}
	f.run(t, setup{}, "vm", "ssh", "wombat").want(t, 4, "", "banger: cannot reach VM \"wombat\" while it is stopped\nfix: banger vm start wombat\n")
}

func TestProxyEndsWithEitherSide(t *testing.T) {
	f := newFake(aVM("otter", banger.Running))
	f.guest = func(banger.VM) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			theirs.Write([]byte("SSH-2.0-guest\r\n"))
			theirs.Close()
		}()
		return ours, nil
	}
	r := f.run(t, setup{in: ""}, "vm", "proxy", "otter", "22")
	if r.code != 0 || r.errOut != "" {
		t.Errorf("%+v", r)
	}
	if r := f.run(t, setup{}, "vm", "proxy", "otter", "70000"); r.code != 2 {
		t.Errorf("%+v", r)
	}
}

func TestLogs(t *testing.T) {
	f := newFake(aVM("otter", banger.Running))
	f.logs = "login:\n"
	f.run(t, setup{}, "vm", "logs", "otter").want(t, 0, "console:\nlogin:\n", "")
	f.run(t, setup{}, "vm", "logs", "--vmm", "otter").want(t, 0, "vmm:\nlogin:\n", "")
	f.run(t, setup{}, "vm", "logs", "--json", "otter").want(t, 0, "{\"line\":\"console:\"}\n{\"line\":\"login:\"}\n", "")
	f.logs = "\x1b[1mup\x1b[m\x1b[2J\r\n\nbanger-bye 0a1b poweroff\nbanger-by the way\nbanger-failed - {}\nb"
	const text = "console:\nup\n\nbanger-by the way\nb"
	f.run(t, setup{}, "vm", "logs", "otter").want(t, 0, text, "")
	f.run(t, setup{}, "vm", "logs", "--raw", "otter").want(t, 0, "console:\n"+f.logs, "")
	f.run(t, setup{tty: true}, "vm", "logs", "otter").want(t, 0, strings.Replace(text, "up", "\x1b[1mup\x1b[m", 1)+"\x1b[0m",
		"services log to the journal: banger vm exec otter -- journalctl\n")
	if r := f.run(t, setup{}, "vm", "logs", "--json", "otter"); !strings.Contains(r.out, `{"line":"up"}`) || strings.Contains(r.out, "poweroff") || !strings.HasSuffix(r.out, "{\"line\":\"b\"}\n") {
		t.Errorf("%+v", r)
	}
	f.run(t, setup{}, "vm", "logs", "nobody").want(t, 3, "", "banger: read the log of VM \"nobody\": there is no such VM\nfix: banger vm list\n")
}

func TestInterruptCancelsAndWaits(t *testing.T) {
	f := newFake()
	f.hang = make(chan struct{})
	signals := make(chan os.Signal, 1)
	go func() {
		<-f.hang
		signals <- syscall.SIGINT
	}()
	f.run(t, setup{signals: signals}, "vm", "create", "--name", "otter").
		want(t, 130, "", "banger: create VM \"otter\": interrupted\n")
}

// TestInterruptSaysWhatItDoes: an interrupt mentions an undo only if one happens.
func TestInterruptSaysWhatItDoes(t *testing.T) {
	for args, want := range map[string]string{
		"vm create --name fox":      "\nInterrupted, undoing. Press Ctrl-C again to quit at once.\n",
		"vm stop otter":             "\nInterrupted. A guest that has begun to shut down continues. Press Ctrl-C again to quit at once.\n",
		"vm start wombat":           "\nInterrupted, undoing. Press Ctrl-C again to quit at once.\n",
		"vm start --wait boot bear": "\nInterrupted. The VM keeps running. Press Ctrl-C again to quit at once.\n",
		"vm wait otter":             "\nInterrupted. Press Ctrl-C again to quit at once.\n",
	} {
		f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped), aVM("bear", banger.Running))
		f.idempotent = true
		f.hang = make(chan struct{})
		signals := make(chan os.Signal, 1)
		go func() {
			<-f.hang
			signals <- syscall.SIGINT
		}()
		r := f.run(t, setup{signals: signals, tty: true}, strings.Fields(args)...)
		if r.code != 130 || !strings.Contains(r.errOut, want) {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestASecondInterruptLeavesAtOnce(t *testing.T) {
	f := newFake()
	f.hang, f.deaf = make(chan struct{}), make(chan struct{})
	signals := make(chan os.Signal, 2)
	go func() {
		<-f.hang
		signals <- syscall.SIGINT
		signals <- syscall.SIGINT
	}()
	left := 0
	f.run(t, setup{signals: signals, quit: func(code int) { left = code; close(f.deaf) }}, "vm", "create")
	if left != 130 {
		t.Errorf("left with %d", left)
	}
}

func TestRunWithoutAProgramIsAShell(t *testing.T) {
	f := newFake()
	spawned := 0
	shell := func(argv []string, _ <-chan os.Signal) (int, error) { spawned++; return 3, nil }
	r := f.run(t, setup{spawn: shell, tty: true}, "vm", "run", "--name", "otter")
	if r.code != 3 || spawned != 1 || len(f.vms) != 1 || !strings.Contains(r.errOut, "next: banger vm ssh otter") {
		t.Errorf("%+v, %v", r, f.vms)
	}
	r = f.run(t, setup{spawn: shell, tty: true}, "vm", "run", "--rm", "--name", "brief")
	if r.code != 3 || spawned != 2 || len(f.vms) != 1 || strings.Contains(r.errOut, "next:") {
		t.Errorf("%+v, %v", r, f.vms)
	}
}

// TestProxyEndsSilently: ssh sends SIGHUP to its proxy when it ends. An error of the
// proxy would be mixed with the output of the user's program.
func TestProxyEndsSilently(t *testing.T) {
	f := newFake(aVM("otter", banger.Running))
	signals := make(chan os.Signal, 1)
	f.guest = func(banger.VM) (net.Conn, error) {
		near, _ := net.Pipe()
		signals <- syscall.SIGHUP
		return near, nil
	}
	in, feed := io.Pipe()
	defer feed.Close()
	f.run(t, setup{stdin: in, signals: signals}, "vm", "proxy", "otter", "22").want(t, 130, "", "")
}
