//go:build vm

package lab

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// TestSessions: a session is what sshd gives, for root and for a user of the image, by ssh
// and by exec, on a terminal and without.
func TestSessions(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "sessions", "--memory", "512")
	c := newClient(t, h, vm)
	h.booted(t, vm.Name)
	h.sh(t, vm.Name, "useradd -m -s /bin/bash ann && sed -i '1i export FOO=bar' /root/.bashrc ~ann/.bashrc")
	t.Run("user manager", c.userManagers)
	t.Run("environment", c.environments)
	t.Run("terminal", c.terminals)
	t.Run("forwards", c.socketForwards)
	h.stopped(t, vm)
}

// as runs a shell command as a user in each way there is and returns what it printed.
func (c *client) as(t *testing.T, user, script string) map[string]string {
	t.Helper()
	tty := func(cmd *exec.Cmd) string {
		return onTerminal(t, cmd, func(*unix.Termios) {})
	}
	exec := []string{"vm", "exec", "-u", user, c.name, "--", "bash", "-c", script}
	return map[string]string{
		"exec":    c.h.banger(t, exec...),
		"exec -t": tty(c.h.command(t.Context(), append([]string{"vm", "exec", "-t"}, exec[2:]...)...)),
		"ssh":     c.ssh(t, "", "-l", user, c.name, script),
		"ssh -t":  tty(c.command(t.Context(), "ssh", "-F", c.file, "-tt", "-l", user, c.name, script)),
	}
}

// onTerminal runs a command that must succeed on a terminal with these modes and returns
// what it printed.
func onTerminal(t *testing.T, cmd *exec.Cmd, set func(*unix.Termios)) string {
	t.Helper()
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	fd := int(terminal.Fd())
	modes, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	set(modes)
	err = errors.Join(unix.IoctlSetTermios(fd, unix.TCSETS, modes), pty.Setsize(terminal, &pty.Winsize{Rows: 33, Cols: 101, X: 808, Y: 495}))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	read := make(chan string)
	go func() {
		var text strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := keyboard.Read(buf)
			text.Write(buf[:n])
			if err != nil { // the last one has closed the terminal
				read <- strings.ReplaceAll(text.String(), "\r\n", "\n")
				return
			}
		}
	}()
	defer time.AfterFunc(bootTime, func() { cmd.Process.Kill() }).Stop()
	err = cmd.Start()
	terminal.Close()
	if err == nil {
		err = cmd.Wait()
	}
	got := <-read
	if err != nil {
		t.Errorf("%q: %v: %s", cmd.Args, err, got)
	}
	return got
}

func (c *client) userManagers(t *testing.T) {
	begun := time.Now()
	c.h.sh(t, c.name, "true")
	t.Logf("the first exec after the boot: %v", time.Since(begun))
	for user, uid := range map[string]string{"root": "0", "ann": "1001"} { // 1000 is dev
		for way, got := range c.as(t, user, `systemctl --user is-system-running --wait; echo "$XDG_RUNTIME_DIR"; stat -c %u "$XDG_RUNTIME_DIR"`) {
			if want := "running\n/run/user/" + uid + "\n" + uid + "\n"; got != want {
				t.Errorf("%s, %s: %q, want %q", way, user, got, want)
			}
		}
	}
}

func (c *client) environments(t *testing.T) {
	paths := map[string]string{"root": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "ann": "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"}
	homes := map[string]string{"root": "/root", "ann": "/home/ann"}
	for user, path := range paths {
		want := strings.Join([]string{"bar", user, homes[user], "/var/mail/" + user, path, "C.UTF-8", "127.0.0.1 65535 127.0.0.1 22", "unset", user}, " ")
		for way, got := range c.as(t, user, `echo $FOO $USER $HOME $MAIL $PATH $LANG $SSH_CONNECTION ${Q-unset} $(logname)`) {
			if got != want+"\n" {
				t.Errorf("%s, %s: %q, want %q", way, user, got, want)
			}
		}
		for way, got := range c.as(t, user, `test -t 0 && test "$SSH_TTY" = $(tty) && echo tty || echo ${SSH_TTY-none}; echo out >/dev/stdout; echo err >/proc/self/fd/1`) {
			want := "none\nout\nerr\n"
			if strings.HasSuffix(way, "-t") {
				want = "tty\nout\nerr\n"
			}
			if got != want {
				t.Errorf("%s, %s: %q, want %q", way, user, got, want)
			}
		}
	}
	cmd := c.command(t.Context(), "ssh", "-F", c.file, "-o", "SendEnv=LC_* LANG HOME", c.name, "perl -e 'print qq($ENV{HOME} $ENV{LC_TIME}\n)'")
	cmd.Env = append(cmd.Env, "LC_ALL=de_DE.UTF-8", "LANG=it_IT.UTF-8", "LC_TIME=C")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "/root C\n" {
		t.Errorf("%q, %v", out, err)
	}
	for way, got := range c.as(t, "root", "cat /proc/self/oom_score_adj; umask; grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd") {
		if want := "0\n0022\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0\n1\n2\n3\n"; strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") { // a terminal has columns
			t.Errorf("%s: what a program inherits is %q, want %q", way, got, want)
		}
	}
	if got := c.h.banger(t, "vm", "exec", "-e", "BANGER_TEST_NO_SUCH", c.name, "--", "sh", "-c", "echo ${BANGER_TEST_NO_SUCH-absent}"); got != "absent\n" {
		t.Errorf("got %q", got)
	}
}

func (c *client) terminals(t *testing.T) {
	set := func(m *unix.Termios) {
		m.Cc[unix.VERASE] = 8
		m.Iflag = m.Iflag&^unix.IXON | unix.IUTF8
	}
	const program = `stty -a; clear >/dev/null && echo clear as $TERM; perl -e 'my $s = "\0" x 8; ioctl(STDIN, 0x5413, $s); print join(" ", unpack("S4", $s)), "\n"'`
	for way, cmd := range map[string]*exec.Cmd{
		"exec": c.h.command(t.Context(), "vm", "exec", "-t", c.name, "--", "sh", "-c", program),
		"ssh":  c.command(t.Context(), "ssh", "-F", c.file, "-tt", c.name, program),
	} {
		cmd.Env = append(cmd.Env, "TERM=xterm-ghostty")
		got := onTerminal(t, cmd, set)
		for _, want := range []string{"erase = ^H;", " -ixon ", " iutf8", "\nclear as xterm-256color\n", "\n33 101 808 495\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q is not in %s", way, want, got)
			}
		}
	}
}

func (c *client) socketForwards(t *testing.T) {
	there, local := "/home/ann/there", filepath.Join(c.dir, "local")
	c.hold(t, "-l", "ann", "-R", there+":127.0.0.1:"+fmt.Sprint(greeter(t, "from the host")), "-L", local+":/run/systemd/private", c.name, untilEOF)
	if got := c.h.sh(t, c.name, "stat -c '%U %a %F' "+there); got != "ann 600 socket" {
		t.Errorf("the socket is %s", got)
	}
	const read = `python3 -c 'import socket, sys; k = socket.socket(socket.AF_UNIX); k.connect(sys.argv[1]); print(k.recv(100).decode())' `
	if got := c.ssh(t, "", "-l", "ann", c.name, read+there); got != "from the host\n" {
		t.Errorf("got %q", got)
	}
	conn, err := net.Dial("unix", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("ann was connected to root's socket")
	}
}
