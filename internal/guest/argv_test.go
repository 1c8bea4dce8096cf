package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// ssh must read odd paths unchanged.
var (
	oddVM      = banger.VM{ID: "a1b2", Name: "otter", SSHKey: `/home/a b/100% "key"`, KnownHosts: `/home/a b/known%h\x`}
	oddProxy   = []string{"/opt/it's 5%/banger", "vm", "proxy", "a1b2"}
	understood = []string{"user root", "hostkeyalias banger-a1b2", `identityfile /home/a b/100%% "key"`,
		`userknownhostsfile /home/a b/known%h\x`, `proxycommand '/opt/it'\''s 5%%/banger' 'vm' 'proxy' 'a1b2'`}
)

// understands returns how the real ssh understands arguments.
func understands(t *testing.T, args, want []string) {
	t.Helper()
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("ssh is missing: apt-get install openssh-client")
	}
	out, err := exec.Command(ssh, append([]string{"-G"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, line := range want {
		if !strings.Contains("\n"+string(out), "\n"+line+"\n") {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
}

func TestSSHArgv(t *testing.T) {
	argv := SSHArgv(oddVM, oddProxy, []string{"echo", "hi"})
	understands(t, append([]string{"-F", "none"}, argv[1:]...), append([]string{"hostname banger-a1b2"}, understood...))
}

func TestSSHConfig(t *testing.T) {
	text, err := SSHConfig(oddVM, oddProxy)
	if err != nil {
		t.Fatal(err)
	}
	fox := oddVM
	fox.ID, fox.Name = "c3d4", "fox"
	other, err := SSHConfig(fox, oddProxy)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("Port 23\n"+text+"\n"+other), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"otter", "otter.vm"} {
		understands(t, []string{"-F", file, host}, append([]string{"host " + host, "port 23"}, understood...))
	}
	understands(t, []string{"-F", file, "fox"}, []string{"hostkeyalias banger-c3d4"})
	understands(t, []string{"-F", file, "elsewhere"}, []string{"hostname elsewhere", "stricthostkeychecking ask"})

	oddVM := oddVM
	oddVM.SSHKey = "/home/a\nb/key"
	if text, err := SSHConfig(oddVM, oddProxy); err == nil {
		t.Errorf("a line was broken:\n%s", text)
	}
}
