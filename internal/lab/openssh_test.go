//go:build vm

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
)

// openSSHSource names a directory with the source package of OpenSSH.
const openSSHSource = "BANGER_TEST_OPENSSH"

// openSSHScripts are OpenSSH's own tests of a server that apply to a guest's, and the
// parts of them that do not: docs/sessions.md says why.
var openSSHScripts = []struct {
	name    string
	without [][2]string // from the first text up to the second
}{
	{name: "connect"}, {name: "connect-uri"}, {name: "exit-status"}, {name: "exit-status-signal"}, {name: "transfer"},
	{name: "stderr-data"}, {name: "stderr-after-eof"}, {name: "broken-pipe"}, {name: "yes-head"},
	{name: "envpass", without: [][2]string{{"trace \"pass env, don't accept\"", "trace \"don't pass env, accept\""}, {`trace "server setenv wins"`, "rm -f $OBJ/ssh_proxy_envpass"}}},
	{name: "agent", without: [][2]string{{"(printf 'cert-authority", "## Deletion tests"}}},
	{name: "agent-subprocess"}, {name: "dynamic-forward"}, {name: "forwarding"},
	{name: "multiplex", without: [][2]string{{`verbose "test $tid: cmd forward local (UNIX)"`, `verbose "test $tid: cmd exit"`}}},
	{name: "rekey", without: [][2]string{{"for s in 16 1k 128k 256k; do\n\tverbose \"server rekeylimit", `verbose "rekeylimit parsing: bytes"`}}},
}

// guestsOpenSSH is where the scripts are in the guest, and guestsPort the port there that
// leads out of it and, through banger's proxy, back to its server.
const (
	guestsOpenSSH = "/root/openssh"
	guestsPort    = 4242
)

// TestOpenSSHRegressions runs OpenSSH's tests in a guest, since client and server have to
// share files and ports. Each of their connections leaves the guest by a forward and comes
// back through banger's proxy.
func TestOpenSSHRegressions(t *testing.T) {
	source := os.Getenv(openSSHSource)
	if source == "" {
		t.Skipf("set %s to a directory with OpenSSH's source package", openSSHSource)
	}
	netcat, err := exec.LookPath("nc")
	if err != nil {
		t.Skip("nc is missing: apt-get install netcat-openbsd")
	}
	h := shared
	vm := h.create(t, "--name", "regress", "--memory", "768")
	h.sh(t, vm.Name, "kill -STOP 1") // the scripts need no services, but the CPU
	c := newClient(t, h, vm)
	c.prepareOpenSSH(t, source, netcat)
	c.hold(t, "-R", fmt.Sprintf("%d:127.0.0.1:%d", guestsPort, c.proxyPort(t, vm)), c.name, untilEOF)
	for _, script := range openSSHScripts {
		t.Run(script.name, func(t *testing.T) {
			text := read(t, filepath.Join(source, "regress", script.name+".sh"))
			for _, part := range script.without {
				before, rest, found := strings.Cut(text, part[0])
				_, after, foundEnd := strings.Cut(rest, part[1])
				if !found || !foundEnd {
					t.Fatalf("it has no part from %q to %q: is it of another version?", part[0], part[1])
				}
				text = before + part[1] + after
			}
			c.runScript(t, script.name, text)
		})
	}
}

// runScript runs one of OpenSSH's tests in the guest.
func (c *client) runScript(t *testing.T, name, text string) {
	path := guestsOpenSSH + "/regress/" + name + ".sh"
	if r := c.h.run(t.Context(), []byte(text), "vm", "exec", c.name, "--", "sh", "-c", `cat >"$0"`, path); r.code != 0 {
		t.Fatal(r.stderr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	begun := time.Now()
	r := c.h.run(ctx, []byte{}, "vm", "exec", "--workdir", guestsOpenSSH+"/objects", c.name, "--", "env", "TEST_SHELL=/bin/sh", "SUDO=",
		"BUILDDIR="+guestsOpenSSH, fmt.Sprintf("TEST_SSH_PORT=%d", guestsPort), "TEST_SSH_SSH="+guestsOpenSSH+"/ssh", "TEST_SSH_SSHD="+guestsOpenSSH+"/sshd",
		"sh", guestsOpenSSH+"/regress/test-exec.sh", guestsOpenSSH+"/objects", path)
	t.Logf("%.0f s: %s", time.Since(begun).Seconds(), r.stdout)
	if r.code != 0 || strings.Contains(r.stdout+r.stderr, "SKIPPED") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

// proxyPort listens on a port of this host that leads through banger's proxy to the
// guest's server.
func (c *client) proxyPort(t *testing.T, vm banger.VM) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		cancel()
		all.Wait()
	})
	proxy := func(conn net.Conn) {
		defer conn.Close()
		cmd := c.h.command(ctx, "vm", "proxy", string(vm.ID), "22")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = conn, conn, os.Stderr
		cmd.WaitDelay = time.Second // a client that keeps its end open
		cmd.Run()
	}
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { proxy(conn) })
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// prepareOpenSSH copies into the guest what the scripts need.
func (c *client) prepareOpenSSH(t *testing.T, source, netcat string) {
	t.Helper()
	key := hostKey(t, c.h, c.name)
	for name, text := range map[string]string{
		// Only keys and algorithms that the guest's server has, and few: the CPU is slow.
		"ssh": `#!/bin/sh
if [ "$1" = -Q ]; then
	case $2 in
	key*) echo ssh-ed25519; exit ;;
	kex) printf '%s\n' curve25519-sha256 ecdh-sha2-nistp256; exit ;;
	cipher) printf '%s\n' aes128-ctr chacha20-poly1305@openssh.com; exit ;;
	mac) echo hmac-sha2-256-etm@openssh.com; exit ;;
	cipher-auth) exit ;;
	esac
fi
exec /usr/bin/ssh "$@"
`,
		// The server runs already: it gets the scripts' keys, and they get its host key.
		"sshd": `#!/bin/sh
objects=` + guestsOpenSSH + `/objects
cat ` + guestsOpenSSH + `/keys $objects/authorized_keys_$USER >$objects/all.$$ && mv $objects/all.$$ /run/banger/authorized_keys
case " $* " in
*" -t "* | *" -T "*) echo 'localhost-with-alias,127.0.0.1,::1 ` + key + `' >$objects/known_hosts ;;
*" -i "*) exec $objects/netcat 127.0.0.1 ` + fmt.Sprint(guestsPort) + ` ;;
*) setsid sh -c 'echo $$ >'$objects'/pidfile; trap "rm '$objects'/pidfile; exit" TERM; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 & ;;
esac
`,
		"objects/mkdtemp":   "#!/bin/sh\nexec mktemp -d /tmp/$1\n",
		"objects/timestamp": "#!/bin/sh\nexec date +%Y%m%dT%H%M%S.%N\n",
		"objects/netcat":    "#!/bin/sh\nLD_LIBRARY_PATH=" + guestsOpenSSH + "/lib exec " + guestsOpenSSH + "/nc \"$@\"\n",
	} {
		file := filepath.Join(c.dir, "openssh", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	into := filepath.Join(c.dir, "openssh")
	copyFile(t, netcat, filepath.Join(into, "nc"))
	if err := os.Mkdir(filepath.Join(into, "lib"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, lib := range libraries(t, netcat) {
		copyFile(t, lib, filepath.Join(into, "lib", filepath.Base(lib)))
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-r", filepath.Join(source, "regress"), into).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.h.banger(t, "vm", "cp", into, c.name+":"+guestsOpenSSH)
	c.h.sh(t, c.name, "cp /run/banger/authorized_keys "+guestsOpenSSH+"/keys")
}

// libraries are the shared libraries of a program beyond the C library's own.
func libraries(t *testing.T, program string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ldd", program).Output()
	if err != nil {
		return nil // it is static
	}
	var libs []string
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) > 2 && !strings.HasPrefix(words[0], "libc.") && !strings.HasPrefix(words[0], "libresolv.") {
			libs = append(libs, words[2])
		}
	}
	return libs
}

// hostKey returns the public half of a VM's host key.
func hostKey(t *testing.T, h *home, name string) string {
	t.Helper()
	for line := range strings.Lines(read(t, h.show(t, name).KnownHosts)) {
		words := strings.Fields(line)
		if len(words) > 2 && strings.Contains(words[0], string(h.show(t, name).ID)) {
			return words[1] + " " + words[2]
		}
	}
	t.Fatalf("no host key of %s is known", name)
	return ""
}
