package script

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger/internal/config"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
)

// received are the files that a build has sent to this guest, by their paths.
var received = struct {
	sync.Mutex
	files map[string]string
}{files: map[string]string{}}

// serveBuild returns what a guest without programs does in place of a program of a build,
// if it is one: it takes files, installs no packages, and does what the script says. The
// script knows `say WORDS`, `sleep` and `exit STATUS`, one a line.
func serveBuild(program wire.Exec) (func(ssh.Channel, <-chan *ssh.Request), bool) {
	argv := make([]string, len(program.Argv))
	for i, arg := range program.Argv {
		argv[i] = string(arg)
	}
	last := argv[len(argv)-1]
	switch {
	case len(argv) == 7 && strings.Contains(argv[2], `cat >"$1"`):
		return func(channel ssh.Channel, _ <-chan *ssh.Request) {
			text, _ := io.ReadAll(channel)
			received.Lock()
			received.files[argv[4]] = string(text)
			received.Unlock()
			exit(channel, 0)
		}, true
	case len(argv) > 4 && strings.Contains(argv[2], "apt-get"):
		return func(channel ssh.Channel, _ <-chan *ssh.Request) {
			fmt.Fprintf(channel, "installing %s\n", strings.Join(argv[4:], " "))
			if last == "absent" {
				fmt.Fprintln(channel.Stderr(), "E: Unable to locate package absent")
				exit(channel, 100)
				return
			}
			received.Lock()
			received.files["packages"] = strings.Join(argv[4:], " ")
			received.Unlock()
			exit(channel, 0)
		}, true
	case last == "/run/banger-build/script":
		return func(channel ssh.Channel, requests <-chan *ssh.Request) { runScript(program, channel, requests) }, true
	}
	return nil, false
}

func exit(channel ssh.Channel, status uint32) {
	channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}

func runScript(program wire.Exec, channel ssh.Channel, requests <-chan *ssh.Request) {
	received.Lock()
	script := received.files["/run/banger-build/script"]
	secret := received.files["/run/secrets/token"]
	received.Unlock()
	for _, v := range program.Env {
		if name, value, _ := strings.Cut(string(v), "="); name != "DEBIAN_FRONTEND" {
			fmt.Fprintf(channel, "%s is %s\n", name, value)
		}
	}
	if secret != "" {
		fmt.Fprintf(channel, "a secret of %d bytes\n", len(secret))
	}
	for line := range strings.Lines(script) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "say":
			fmt.Fprintln(channel, rest)
		case "sleep":
			for range requests { // until the client has enough
			}
			return
		case "exit":
			var status uint32
			fmt.Sscan(rest, &status)
			exit(channel, status)
			return
		}
	}
	exit(channel, 0)
}

// serveExport sends a root file system in which the build's script is a file, or two
// changes and a package. A VM of the daemon's own has no user, and a copy no init.
func serveExport(config wire.Config, channel ssh.Channel) {
	name := config.Name
	copied, built := strings.HasPrefix(name, "copy-"), strings.HasPrefix(name, "build-")
	if config.NoInit != copied || (config.User == "") != (copied || built) {
		fmt.Fprintf(channel.Stderr(), "user %q, no init: %v\n", config.User, config.NoInit)
		exit(channel, 1)
		return
	}
	var request wire.Export
	line, _ := bufio.NewReader(channel).ReadBytes('\n')
	if json.Unmarshal(line, &request) != nil {
		exit(channel, 1)
		return
	}
	if request.Changes {
		for _, c := range []wire.Change{
			{Kind: wire.Added, Path: []byte("opt/tool"), Dir: true}, {Kind: wire.Added, Path: []byte("opt/tool/a"), Size: 1000},
			{Kind: wire.Changed, Path: []byte("etc/issue"), Size: 7}, {Kind: wire.Changed, Path: []byte("etc/hostname"), Size: 7},
			{Kind: wire.Deleted, Path: []byte("etc/motd")}, {Kind: wire.Added, Path: []byte("usr/bin/jq"), Size: 9},
			{Kind: wire.Database, Path: []byte("var/lib/dpkg/status"), Base: []byte("Package: nano\nVersion: 8\n\nPackage: curl\nVersion: 1\n"),
				Text: []byte("Package: jq\nVersion: 1.7\n\nPackage: curl\nVersion: 2\n")},
			{Kind: wire.List, Path: []byte("var/lib/dpkg/info/jq.list"), Text: []byte("/usr/bin/jq\n")},
		} {
			json.NewEncoder(channel).Encode(c)
		}
		exit(channel, 0)
		return
	}
	received.Lock()
	defer received.Unlock()
	script := received.files["/run/banger-build/script"]
	if strings.Contains(script, "break") {
		fmt.Fprintln(channel.Stderr(), "a disk is broken")
		exit(channel, 1)
		return
	}
	w := tar.NewWriter(channel)
	for _, file := range []struct{ name, text string }{{"bin/sh", "#!"}, {"etc/issue", name}, {"etc/built", script + received.files["packages"]}} {
		if built && file.name == "etc/issue" {
			continue // a made-up name
		}
		w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o755, Size: int64(len(file.text))})
		io.WriteString(w, file.text)
	}
	if request.Home {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "root/mine", Mode: 0o700})
	}
	w.Close()
	exit(channel, 0)
}

// TestKeepOpensAShell: the VM of a build that fails is there for a shell, and no longer.
func TestKeepOpensAShell(t *testing.T) {
	for _, tool := range []string{"mke2fs", "ssh"} {
		if _, err := (hostcmd.Host{}).Look(tool); err != nil {
			t.Skipf("%s is missing: apt-get install e2fsprogs openssh-client", tool)
		}
	}
	h := newHome(t)
	h.run("printf 'say no\\nexit 7\\n' >fails.sh; printf 'say yes\\n' >works.sh")
	for _, test := range []struct {
		script, says string
		code         int
	}{{"fails.sh", `(?s)exit status 7: no.*a shell in the VM of the build.*build-[0-9a-f]+ ran a shell`, 1}, {"works.sh", `box: built`, 0}} {
		out, code := h.typed(t, "banger image build box --keep --script "+test.script)
		if code != test.code || !regexp.MustCompile(test.says).MatchString(out) {
			t.Errorf("exit code %d: %s", code, out)
		}
		if left := h.run("banger vm list -q; ls -A state/banger/leases"); left != "" {
			t.Errorf("%s leaves %s", test.script, left)
		}
	}
}

// TestInterruptedBuilds: whatever ends the client of a build, no VM and no image is left.
func TestInterruptedBuilds(t *testing.T) {
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		t.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	h := newHome(t)
	h.run("printf 'say asleep\\nsleep\\n' >sleeps.sh")
	events := h.follow(t)
	for end := range usual {
		t.Run(end, func(t *testing.T) {
			c := h.client(t, "banger image build box --script sleeps.sh", ends[end] == nil)
			events.await(t, `"verb":"build","name":"box".*"step":"run the script"`)
			c.end(t, ends[end])
			events.await(t, `"verb":"build","name":"box".*"ended":true`)
			c.wait()
			if left := h.run("banger vm list -q; ls -A state/banger/leases; banger image list | grep box || true"); left != "" {
				t.Errorf("it leaves %s", left)
			}
		})
	}
	t.Run("the daemon", func(t *testing.T) {
		c := h.client(t, "banger image build box --script sleeps.sh", false)
		events.await(t, `"verb":"build","name":"box".*"step":"run the script"`)
		dirs, err := config.DirsFrom(func(key string) string { return homeEnv(h.dir)[key] })
		if err == nil {
			err = kill(dirs.DaemonLock())
		}
		if err != nil {
			t.Fatal(err)
		}
		c.wait()
		h.run("banger vm list -q")
		late := time.After(time.Minute)
		watch := h.follow(t)
		for h.run("banger vm list -q; ls -A state/banger/leases") != "" {
			select {
			case <-watch.text:
			case <-late:
				t.Fatal("the next daemon leaves the VM of the build")
			}
		}
	})
}
