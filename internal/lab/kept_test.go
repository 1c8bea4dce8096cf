//go:build vm

package lab

import (
	"fmt"
	"strings"
	"testing"
)

// TestKept changes files of a guest that the agent also writes. They stay through a
// restart and a rename, which change only the words of the host name.
func TestKept(t *testing.T) {
	t.Parallel()
	h := shared
	vm := h.create(t, "--name", "kept", "--image", h.tiny(t))
	t.Run("limits", func(t *testing.T) {
		for name, least := range map[string]int{"fs/inotify/max_user_instances": 1024, "fs/inotify/max_user_watches": 524288, "vm/max_map_count": 262144} {
			if got := number(t, h.sh(t, vm.Name, "cat /proc/sys/"+name)); got < least {
				t.Errorf("%s is %d", name, got)
			}
		}
	})
	if got := h.banger(t, "vm", "exec", "--user", "dev", vm.Name, "--", "sh", "-c", "id -un; pwd; test -r /run/banger/authorized_keys && echo keys"); got != "dev\n/home/dev\nkeys\n" {
		t.Errorf("the user beside root: %q", got)
	}
	files := func(name string) map[string]string {
		return map[string]string{
			"/etc/hostname":              fmt.Sprintf("# named by Ann\n%s.corp\n", name),
			"/etc/hosts":                 fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1\t%[1]s.corp  %[1]s alias # kept\n10.9.9.9 db\n", name),
			"/etc/resolv.conf":           "nameserver 9.9.9.9\noptions rotate\n",
			"/root/.ssh/authorized_keys": "ssh-ed25519 AAAA ann\n",
			"/etc/passwd":                "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n", // without dev
		}
	}
	check := func(name string) {
		t.Helper()
		for file, want := range files(name) {
			if got := h.sh(t, name, "cat "+file) + "\n"; got != want {
				t.Errorf("%s of %s has %q, want %q", file, name, got, want)
			}
		}
		if got := h.sh(t, name, "hostname"); got != name+".corp" {
			t.Errorf("the host name of %s is %q", name, got)
		}
	}
	var script strings.Builder
	script.WriteString("mkdir -p /root/.ssh\n")
	for file, text := range files(vm.Name) {
		fmt.Fprintf(&script, "cat >%s <<'END'\n%sEND\n", file, text)
	}
	h.sh(t, vm.Name, script.String())
	h.banger(t, "vm", "restart", vm.Name)
	check(vm.Name)
	h.banger(t, "vm", "rename", vm.Name, "moved")
	check("moved")
	h.banger(t, "vm", "restart", "moved")
	check("moved")
	h.banger(t, "vm", "stop", "moved")
}
