//go:build vm

package lab

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/network/helper"
	"banger/internal/vmm"
)

// archive is where the packages of guests come from.
const archive = "deb.debian.org"

// outside is a server beyond the host that every guest may use: the archive, or on a host
// that does not reach it another one, in BANGER_TEST_OUTSIDE.
var outside = cmp.Or(os.Getenv("BANGER_TEST_OUTSIDE"), archive)

// reaches is a program for the guest that ends with 0 if it can reach the outside.
var reaches = `timeout 5 bash -c 'exec 3<>/dev/tcp/` + outside + `/80'`

// TestUsernet gives VMs of a plain user the internet, each other and names.
func TestUsernet(t *testing.T) {
	t.Parallel()
	h := plain(t)
	h.env = append(h.env, "BANGER_NETWORK=auto")
	vm := h.create(t, "--name", "otter")
	near := h.create(t, "--name", "wombat", "--image", h.tiny(t))
	t.Run("shown", func(t *testing.T) {
		for _, vm := range []banger.VM{vm, near} {
			if n := vm.Network; n.Mode != "usernet" || !netip.MustParsePrefix("10.192.0.0/10").Contains(n.Address) || !n.NAT {
				t.Errorf("%s: %+v", vm.Name, n)
			}
		}
	})
	h.booted(t, vm.Name)
	t.Run("names and neighbours", func(t *testing.T) { neighbours(t, h, vm, near) })
	t.Run("traffic", func(t *testing.T) { counted(t, h, vm, near) })
	t.Run("the outside", func(t *testing.T) { h.sh(t, vm.Name, reaches) })
	t.Run("the archive", func(t *testing.T) {
		if outside != archive {
			t.Skip("this host does not reach " + archive)
		}
		h.sh(t, vm.Name, `cd /etc/apt && rm -f sources.list.d/*.sources && . /etc/os-release &&
echo "deb http://`+archive+`/debian-security $VERSION_CODENAME-security main" >sources.list && apt-get -q update`)
	})
	t.Run("the host is closed", func(t *testing.T) { hostIsClosed(t, h, vm) })
	t.Run("a package of Python's", func(t *testing.T) { wheel(t, h, vm) })
	t.Run("Docker builds", func(t *testing.T) { dockerBuilds(t, h, vm) })
	t.Run("egress off and on", func(t *testing.T) { toggles(t, h, vm, near, reaches) })
	t.Run("renumber", func(t *testing.T) { renumbered(t, h, vm, near, reaches) })
	t.Run("kills", func(t *testing.T) { killed(t, h, vm, reaches) })
}

// neighbours reach each other by name.
func neighbours(t *testing.T, h *home, vm, near banger.VM) {
	t.Helper()
	if got := h.sh(t, vm.Name, "getent hosts "+near.Name+".vm"); !strings.HasPrefix(got, near.Network.Address.String()) {
		t.Errorf("%s.vm is %q, want %s", near.Name, got, near.Network.Address)
	}
	if got := h.sh(t, vm.Name, "getent hosts "+near.Name); !strings.HasPrefix(got, near.Network.Address.String()) {
		t.Errorf("%s is %q", near.Name, got)
	}
	if got := h.sh(t, vm.Name, "getent hosts "+near.Network.Address.String()); !strings.HasSuffix(got, near.Name+".vm") {
		t.Errorf("%s is %q", near.Network.Address, got)
	}
	if r := h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "timeout", "10", "getent", "hosts", "nobody-here.vm"); r.code != 2 {
		t.Errorf("an unknown name: exit %d, %s", r.code, r.stdout)
	}
	h.sh(t, vm.Name, "ping -c 1 -W 10 "+near.Name)
}

// counted: what a VM receives and sends is counted, also over a restart.
func counted(t *testing.T, h *home, vm, near banger.VM) {
	t.Helper()
	stats := func(name string) (s banger.VMStats) {
		if err := json.Unmarshal([]byte(h.banger(t, "vm", "stats", "--json", name)), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	was, wasNear := stats(vm.Name), stats(near.Name)
	const sent, least = 20, 20 * 1400
	h.sh(t, vm.Name, fmt.Sprintf("ping -q -c %d -i 0.2 -s 1400 -W 10 %s", sent, near.Name))
	now := stats(vm.Name)
	if now.NetworkSent < was.NetworkSent+least || now.NetworkReceived < was.NetworkReceived+least {
		t.Errorf("before: %+v, after: %+v", was, now)
	}
	h.banger(t, "vm", "restart", near.Name)
	if now := stats(near.Name); now.NetworkReceived < wasNear.NetworkReceived+least || now.NetworkSent < wasNear.NetworkSent+least {
		t.Errorf("over a restart: before %+v, after %+v", wasNear, now)
	}
}

// send writes a file of the host's in a guest.
func (h *home) send(t *testing.T, name, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if r := h.run(t.Context(), data, "vm", "exec", name, "--", "sh", "-c", `cat >"$0"`, to); r.code != 0 {
		t.Fatalf("send %s: %s", from, r.stderr)
	}
}

// authorities are the certificates that this host trusts, which may be more than the
// image's.
const authorities = "/etc/ssl/certs/ca-certificates.crt"

// wheel downloads a package of Python's by TLS. The image has no pip, so this host's says
// where a small one is.
func wheel(t *testing.T, h *home, vm banger.VM) {
	out, err := exec.Command("python3", "-m", "pip", "--isolated", "install", "--cert", authorities, "--disable-pip-version-check", "-q", "--dry-run",
		"--ignore-installed", "--no-deps", "--only-binary", ":all:", "--report", "-", "six").Output()
	var report struct {
		Install []struct {
			Download struct {
				URL     string `json:"url"`
				Archive struct {
					Hashes map[string]string `json:"hashes"`
				} `json:"archive_info"`
			} `json:"download_info"`
		} `json:"install"`
	}
	if err == nil {
		err = json.Unmarshal(out, &report)
	}
	if err != nil || len(report.Install) != 1 {
		t.Skipf("this host has no pip, or that no registry: %v: %s", err, out)
	}
	h.send(t, vm.Name, authorities, authorities)
	d := report.Install[0].Download
	if got := h.sh(t, vm.Name, "curl -sSf --max-time 60 '"+d.URL+"' | sha256sum"); !strings.HasPrefix(got, d.Archive.Hashes["sha256"]+" ") {
		t.Errorf("%s: %s, want %s", d.URL, got, d.Archive.Hashes["sha256"])
	}
}

// rootWithApt prints a root as a tar: what apt-get needs to update, from the guest's own.
const rootWithApt = `cd / && { echo bin; echo lib; echo lib64; echo sbin; echo etc/passwd; echo etc/group; echo etc/nsswitch.conf; echo var/lib/dpkg/status
find etc/apt usr/share/keyrings usr/share/apt usr/share/dpkg
for p in usr/bin/apt-get usr/bin/apt-config usr/lib/apt/methods/* usr/bin/gpgv usr/bin/sqv usr/bin/dpkg usr/bin/sh usr/bin/mkdir usr/lib/x86_64-linux-gnu/libnss_*; do
	[ -e $p ] || continue
	for f in /$p $(ldd $p 2>/dev/null | grep -o '/[^ ]*' | sed 's,^/lib,/usr/lib,'); do echo $f; readlink -f $f; done
done; } 2>/dev/null | sed 's,^/,,' | sort -u | tar c --no-recursion -f - -T - 2>/dev/null`

// dockerBuilds: what a build in the guest runs reaches the outside.
func dockerBuilds(t *testing.T, h *home, vm banger.VM) {
	if os.Getenv("BANGER_TEST_DOCKER_BUILD") == "" || outside != archive {
		t.Skip("it takes minutes on an emulated CPU; enable with: BANGER_TEST_DOCKER_BUILD=1")
	}
	h.sh(t, vm.Name, "("+rootWithApt+") | docker import - apt")
	h.sh(t, vm.Name, `mkdir -p /tmp/build && cd /tmp/build && printf 'FROM apt\nRUN mkdir -p -m 1777 /tmp && mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial && apt-get -o APT::Sandbox::User=root update\n' >Dockerfile && docker build --progress=plain -t built . 2>&1`)
}

// hostIsClosed: a guest reaches no service of the host.
func hostIsClosed(t *testing.T, h *home, vm banger.VM) {
	t.Helper()
	port := greeter(t, "host")
	for _, addr := range []string{"127.0.0.1", "169.254.169.254", "198.51.100.1", "198.51.100.2"} {
		if addr == "127.0.0.1" {
			addr = "$(ip route | awk '/^default/ { print $3 }')" // the host's end
		}
		r := h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "sh", "-c", fmt.Sprintf("timeout 5 bash -c 'exec 3<>/dev/tcp/%s/%d'", addr, port))
		if r.code == 0 || r.code == 124 {
			t.Errorf("%s: exit %d, want to be refused", addr, r.code)
		}
	}
}

// toggles takes the outside from a running VM, and gives it back.
func toggles(t *testing.T, h *home, vm, near banger.VM, reaches string) {
	t.Helper()
	for range 2 {
		h.banger(t, "vm", "set", "--no-nat", vm.Name)
		began := time.Now()
		if r := h.run(t.Context(), nil, "vm", "exec", vm.Name, "--", "sh", "-c", reaches); r.code == 0 || r.code == 124 {
			t.Errorf("without egress: exit %d after %v", r.code, time.Since(began))
		}
		t.Logf("refused after %v", time.Since(began).Round(time.Millisecond))
		h.sh(t, vm.Name, "ping -c 1 -W 10 "+near.Name+".vm")
		if now := h.show(t, vm.Name); now.Network.NAT {
			t.Error("NAT is shown")
		}
		h.banger(t, "vm", "set", "--nat", vm.Name)
		h.sh(t, vm.Name, reaches)
	}
}

// renumbered moves running VMs to another subnet: they keep their names, and reach each
// other and the outside.
func renumbered(t *testing.T, h *home, vm, near banger.VM, reaches string) {
	t.Helper()
	for _, args := range [][]string{{"--subnet", "10.222.16.0/20"}, nil} {
		var done banger.Renumbered
		if err := json.Unmarshal([]byte(h.banger(t, append([]string{"network", "renumber", "--json"}, args...)...)), &done); err != nil {
			t.Fatal(err)
		}
		if len(args) > 0 && done.Now.String() != args[1] || done.Now == done.Was || !slices.Equal(done.Later, []string{near.Name}) && len(done.Later) > 0 {
			t.Errorf("%+v", done)
		}
		now := h.show(t, vm.Name).Network.Address
		if inside := strings.TrimSpace(h.sh(t, vm.Name, "hostname -I | cut -d ' ' -f 1")); !done.Now.Contains(now) || inside != now.String() {
			t.Errorf("its address is %v, inside it is %s", now, inside)
		}
		neighbours(t, h, vm, h.show(t, near.Name))
		h.sh(t, vm.Name, reaches)
	}
	for _, subnet := range []string{"10.0.0.0/8", "8.8.0.0/20", "10.222.17.0/20"} {
		if r := h.run(t.Context(), nil, "network", "renumber", "--subnet", subnet); r.code != 2 {
			t.Errorf("%s: exit %d", subnet, r.code)
		}
	}
}

// killed kills the daemon, the helper, and both: the VM keeps its network or gets it
// back. reaches is a program for the guest that ends with 0 if the outside answers it.
func killed(t *testing.T, h *home, vm banger.VM, reaches string) {
	t.Helper()
	address := func() string { return h.sh(t, vm.Name, "hostname -I") }
	before := address()
	helperPID := func() int {
		p, err := helper.Find(h.dirs.Net())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		return p.PID()
	}
	for _, c := range []struct {
		name           string
		daemon, helper bool
	}{{"daemon", true, false}, {"helper", false, true}, {"both", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			daemon, net := h.daemonPID(t.Context()), helperPID()
			if c.daemon {
				syscall.Kill(daemon, syscall.SIGKILL)
			}
			if c.helper {
				syscall.Kill(net, syscall.SIGKILL)
				if err := gone(net, time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			h.banger(t, "vm", "list")
			until(t, time.Minute, "the helper", func() bool {
				p, err := helper.Find(h.dirs.Net())
				if err == nil {
					p.Close()
				}
				return err == nil
			})
			h.sh(t, vm.Name, reaches)
			if now := address(); now != before {
				t.Errorf("its addresses were %s, are %s", before, now)
			}
		})
	}
	t.Run("no daemon", func(t *testing.T) {
		h.sh(t, vm.Name, "(sleep 3; "+reaches+"; echo alone: $? >/dev/console) >/dev/null 2>&1 </dev/null &")
		h.banger(t, "daemon", "stop")
		// The console is a file: who asks the guest starts a daemon.
		until(t, time.Minute, "the guest's word", func() bool { return strings.Contains(console(t, vm), "alone: 0") })
	})
	t.Run("nothing is left", func(t *testing.T) {
		h.banger(t, "vm", "delete", "--yes", "--force", "--all")
		if p, err := helper.Find(h.dirs.Net()); !errors.Is(err, vmm.ErrGone) {
			t.Errorf("the helper runs: %v, %v", p, err)
		}
	})
}
