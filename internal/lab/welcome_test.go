//go:build vm

package lab

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"
)

// welcoming checks what a person expects of the default image.
func welcoming(t *testing.T, h *home, name string) {
	h.booted(t, name)
	for what, c := range map[string]struct{ script, want string }{
		"the keys for sshd": {"sshd -T -C user=dev,host=localhost,addr=127.0.0.1 | grep authorizedkeysfile", "authorizedkeysfile .ssh/authorized_keys /run/banger/authorized_keys"},
		"python":            {"python3 -c 'import ssl, sqlite3, ctypes, venv, ensurepip, lzma, curses; print(6 * 7)'", "42"},
		"a compiler":        {"cd /tmp && echo 'int main(void) { return 7; }' >t.c && make -s t && ./t; echo $?", "7"},
		"tools":             {"vim --version | grep -c '^VIM'; e2fsck -V 2>&1 | grep -c '^e2fsck'; infocmp foot alacritty >/dev/null && echo terminals; man -w ls git tcp | wc -l", "1\n1\nterminals\n3"},
		"no slow man-db":    {"ls /var/lib/man-db/auto-update 2>&1 | grep -c 'No such'; systemctl is-enabled man-db.timer; true", "1\ndisabled"},
		"a swap file":       {"fallocate -l 16M /root/swap && chmod 600 /root/swap && mkswap -q /root/swap && swapon /root/swap && swapon --noheadings --show=NAME; swapoff /root/swap; rm /root/swap", "/root/swap"},
		"limits":            {"sysctl -n fs.inotify.max_user_instances fs.inotify.max_user_watches vm.max_map_count", "8192\n524288\n1048576"},
	} {
		t.Run(what, func(t *testing.T) {
			if got := h.sh(t, name, c.script); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("a user with sudo and the same keys", func(t *testing.T) {
		got := h.banger(t, "vm", "exec", "--no-stdin", "--user", "dev", name, "--", "sh", "-c", "id -un; sudo -n id -un; cd; pwd; id -nG; test -r /run/banger/authorized_keys && echo keys")
		if want := "dev\nroot\n/home/dev\ndev adm sudo docker\nkeys\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("a message of three lines", func(t *testing.T) {
		cmd := h.command(t.Context(), "vm", "exec", "-t", name, "--", "bash", "-lic", "exec true")
		if got := screenOf(t, cmd); strings.Count(got, "\n") != 3 || !strings.HasPrefix(got, "Disks:   / has ") ||
			!strings.Contains(got, "; /root 1") || !strings.Contains(got, "\r\nNetwork: none\r\nDocker:  starts when you first use it\r\n") {
			t.Errorf("got %q", got)
		}
		if got := h.sh(t, name, "bash -lc exit"); got != "" {
			t.Errorf("a program's login gets %q", got)
		}
	})
}

// screenOf returns what a command prints on a terminal.
func screenOf(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 120, Rows: 40})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var all strings.Builder
	for buf := make([]byte, 4096); ; {
		n, err := terminal.Read(buf) // ends with EIO
		all.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	return all.String()
}
