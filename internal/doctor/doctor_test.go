package doctor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/detach"
	"banger/internal/hostcmd"
	"banger/internal/network"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// modelHost is a Debian 12 with everything that banger needs, seen by a plain user.
type modelHost struct {
	Host
	t      *testing.T
	absent map[string]bool
	says   map[string]string // what commands print, by their first two words
}

var resolver = netip.MustParseAddrPort("127.53.1.2:5361")

func newHost(t *testing.T) *modelHost {
	root := t.TempDir()
	m := &modelHost{t: t, absent: map[string]bool{}, says: map[string]string{
		"qemu-system-x86_64 -machine":  "pc\nmicrovm  microvm (i386)\n",
		"qemu-system-x86_64 --version": "QEMU emulator version 7.2.22 (Debian 1:7.2)\n",
		"go env":                       "go1.26.8\n",
	}}
	m.Host = Host{
		Runner: m, Purpose: ToRun, Root: root, User: "otto", UID: 1000,
		Dirs:     config.Dirs{State: "/home/otto/.local/state/banger"},
		Config:   config.Config{Driver: "auto", RuntimeDir: filepath.Join(root, "runtime")},
		CheckKVM: process.Host{CPUInfo: filepath.Join(root, "proc/cpuinfo"), KVM: filepath.Join(root, "dev/kvm")}.CheckKVM, Firecracker: probed{},
		Free: func(string) (banger.Size, error) { return 40 * banger.GiB, nil },
		Offer: func(context.Context) (network.Offer, error) {
			return network.Offer{Mode: network.Usernet, Resolver: resolver}, nil
		},
		Daemon: func(context.Context) (banger.Daemon, error) {
			return banger.Daemon{}, &banger.Error{Kind: banger.NotFound, Why: errors.New("none")}
		},
	}
	m.write("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n")
	m.write("etc/resolv.conf", "nameserver 127.0.0.53\n")
	m.write("etc/systemd/resolved.conf.d/banger.conf", "[Resolve]\nDNS="+resolver.String()+"\nDomains=~vm\n")
	m.write("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme vmx sse2\n")
	m.write("dev/kvm", "")
	m.write("etc/group", "root:x:0:\nkvm:x:106:anna\n")
	m.write("etc/subuid", "anna:100000:65536\notto:165536:65536\n")
	m.write("etc/subgid", "anna:100000:65536\notto:165536:65536\n")
	digest := "sha256:" + strings.Repeat("0", 64)
	m.write("runtime/bundle.json", `{"version":1,"kernel":{"release":"6.12","digest":"`+digest+`"},"image":{"name":"docker","file":"rootfs-docker.ext4","digest":"`+digest+`"}}`)
	return m
}

// probed is the part of a driver that doctor uses.
type probed struct {
	vmm.Driver
	err error
}

func (probed) Name() string { return "firecracker" }

func (p probed) Probe(context.Context) (vmm.Capabilities, error) {
	return vmm.Capabilities{Version: "1.17.0"}, p.err
}

func TestFirecrackerRow(t *testing.T) {
	broken := probed{err: &banger.Error{Kind: banger.Unready, Why: errors.New("no good"), Fix: "mend it"}}
	for _, test := range []struct {
		wanted string
		driver probed
		want   Check
	}{
		{"auto", probed{}, Check{State: OK, Detail: "1.17.0 runs new VMs"}},
		{"firecracker", probed{}, Check{State: OK, Detail: "1.17.0 runs new VMs"}},
		{"qemu", probed{}, Check{State: OK, Detail: "1.17.0 is usable; new VMs use qemu"}},
		{"auto", broken, Check{State: Warn, Detail: "no good; new VMs use QEMU", Fix: "mend it"}},
		{"qemu", broken, Check{State: Warn, Detail: "no good; new VMs use QEMU", Fix: "mend it"}},
		{"firecracker", broken, Check{State: Missing, Detail: "no good", Fix: "mend it"}},
	} {
		h := newHost(t)
		h.Config.Driver, h.Firecracker = test.wanted, test.driver
		test.want.Name = "Firecracker"
		if got := find(t, Run(t.Context(), h.Host), "Firecracker"); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.wanted, got, test.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	slow, untested := Check{Name: "/dev/kvm", State: Warn}, Check{Name: "host", State: Warn}
	for want, checks := range map[string][]Check{
		"Ready": {{Name: "ssh", State: OK}},
		"Ready, with 1 warning: VMs will be slow":                                  {{Name: "ssh", State: OK}, slow},
		"Ready, with 3 warnings: this host is untested; VMs will be slow; network": {untested, slow, {Name: "network", State: Warn}},
		"Not ready: ssh, QEMU": {{Name: "ssh", State: Missing}, slow, {Name: "QEMU", State: Missing}},
	} {
		if got := Verdict(checks); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestUnknownDriverIsNoReadyHost: a daemon does not start with an unknown driver.
func TestUnknownDriverIsNoReadyHost(t *testing.T) {
	h := newHost(t)
	h.Config.Driver = "qmeu"
	checks := Run(t.Context(), h.Host)
	if c := find(t, checks, "Firecracker"); Ready(checks) || c.Detail != `there is no driver "qmeu"` || !strings.HasSuffix(c.Fix, "auto, firecracker, qemu") {
		t.Errorf("got %+v", c)
	}
}

// TestOutdatedDaemon: doctor notices a daemon that started before the runtime was built,
// or before the user joined a group.
func TestOutdatedDaemon(t *testing.T) {
	broken := probed{err: errors.New("no good")}
	for _, test := range []struct {
		wanted, uses string
		driver       probed
		built        time.Duration // after the start
		says         string
	}{
		{"auto", "firecracker", probed{}, -time.Second, ""},
		{"auto", "qemu", broken, -time.Second, ""},
		{"qemu", "qemu", probed{}, -time.Second, ""},
		{"auto", "firecracker", probed{}, time.Second, "started before its runtime was built"},
		{"auto", "qemu", probed{}, -time.Second, "still uses qemu for new VMs"},
		{"auto", "firecracker", broken, -time.Second, "still uses firecracker for new VMs"},
		{"firecracker", "qemu", probed{}, -time.Second, "still uses qemu for new VMs"},
	} {
		h := newHost(t)
		h.Config.Driver, h.Firecracker, h.Dirs.State = test.wanted, test.driver, filepath.Join(h.Root, "state")
		h.Daemon = func(context.Context) (banger.Daemon, error) {
			return banger.Daemon{PID: 7, Driver: test.uses, Runtime: h.Config.RuntimeDir}, nil
		}
		h.write("state/"+filepath.Base(h.Dirs.DaemonLock()), "{}")
		built := time.Now()
		err := errors.Join(os.Chtimes(h.Config.Bundle().Manifest(), built, built), os.Chtimes(h.Dirs.DaemonLock(), built, built.Add(-test.built)))
		if err != nil {
			t.Fatal(err)
		}
		c := find(t, Run(t.Context(), h.Host), "daemon")
		if stale := test.says != ""; stale != (c.State == Warn) || stale != (c.Fix == "banger daemon stop") || !strings.Contains(c.Detail, test.says) {
			t.Errorf("%+v: got %+v", test, c)
		}
	}
}

// TestLimitedDaemon: doctor reports what the daemon got from the shell that started it.
func TestLimitedDaemon(t *testing.T) {
	h := newHost(t)
	h.Config.Driver = "qemu"
	h.Daemon = func(context.Context) (banger.Daemon, error) { return banger.Daemon{PID: 7, Driver: "qemu"}, nil }
	h.Inherited = func(pid int) ([]detach.Problem, error) {
		if pid != 7 {
			t.Errorf("asked for process %d", pid)
		}
		return []detach.Problem{{What: "VMs run with niceness 5", Fix: "start again"}}, nil
	}
	if c := find(t, Run(t.Context(), h.Host), "daemon"); c.State != Warn || !strings.Contains(c.Detail, "niceness 5") || c.Fix != "start again" {
		t.Errorf("got %+v", c)
	}
}

func (m *modelHost) offers(o network.Offer) {
	m.Offer = func(context.Context) (network.Offer, error) { return o, nil }
}

func (m *modelHost) remove(path string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.Root, path)); err != nil {
		m.t.Fatal(err)
	}
}

// TestNetworkRows: what is well has no fix, and says what VMs get.
func TestNetworkRows(t *testing.T) {
	for _, test := range []struct {
		change         func(*modelHost)
		network, names string
	}{
		{func(h *modelHost) {}, "usernet, without root; only root's daemon can use bridge, which is faster", "NAME.vm, through systemd-resolved"},
		{func(h *modelHost) { h.offers(network.Offer{Mode: network.Bridge, Resolver: resolver}) }, "bridge", "NAME.vm, through systemd-resolved, while a VM runs"},
		{func(h *modelHost) { h.Config.Network = "none" }, "none for new VMs, as config.toml says; usernet is possible", "NAME.vm, through systemd-resolved"},
		{func(h *modelHost) {
			h.write("etc/resolv.conf", "nameserver 127.0.0.1\n")
			h.write("etc/dnsmasq.conf", "")
			h.write("etc/dnsmasq.d/banger.conf", "server=/vm/127.53.1.2#5361\n")
		}, "usernet, without root; only root's daemon can use bridge, which is faster", "NAME.vm, through dnsmasq"},
	} {
		h := newHost(t)
		test.change(h)
		checks := Run(t.Context(), h.Host)
		for name, want := range map[string]string{"network": test.network, "names": test.names} {
			if c := find(t, checks, name); c.State != OK || c.Detail != want || c.Fix != "" {
				t.Errorf("got %+v, want %q", c, want)
			}
		}
	}
}

// TestConflictRow: a route that is in the way of the VMs' subnet is named with its cure.
func TestConflictRow(t *testing.T) {
	h := newHost(t)
	h.offers(network.Offer{Mode: network.Bridge, Resolver: resolver, Conflict: &network.Note{Text: "this host has a route to 10.200.0.0/24", Fix: "banger network renumber"}})
	if c := find(t, Run(t.Context(), h.Host), "network"); c.State != Warn || c.Detail != "bridge; this host has a route to 10.200.0.0/24" || c.Fix != "banger network renumber" {
		t.Errorf("got %+v", c)
	}
}

// TestAskBangerd: doctor reads what bangerd prints, and passes on the reason when bangerd prints nothing.
func TestAskBangerd(t *testing.T) {
	h := newHost(t)
	program, missing := "/opt/bangerd", error(nil)
	ask := AskBangerd(h, "/state", func() (string, error) { return program, missing })
	h.says["bangerd offer"] = `{"mode":"none","why":"x","fix":"y","resolver":"127.53.1.2:5361"}` + "\n"
	if got, err := ask(t.Context()); err != nil || got != (network.Offer{Mode: network.None, Why: "x", Fix: "y", Resolver: resolver}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "usage\n", "{}", `{"mode":"token ring","resolver":""}`} {
		h.says["bangerd offer"] = bad
		if _, err := ask(t.Context()); err == nil || banger.FixOf(err) == "" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	missing = errors.New("none")
	if _, err := ask(t.Context()); !errors.Is(err, missing) {
		t.Error(err)
	}
}

func (m *modelHost) write(path, text string) {
	m.t.Helper()
	path = filepath.Join(m.Root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// deviceOf returns a file in place of the device, with a mode.
func (m *modelHost) deviceOf(mode os.FileMode) string {
	m.t.Helper()
	path := filepath.Join(m.Root, "dev/kvm")
	if err := os.Chmod(path, mode); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *modelHost) Look(name string) (string, error) {
	if m.absent[name] {
		return "", fmt.Errorf("the command %s is not installed", name)
	}
	return "/usr/bin/" + name, nil
}

func (m *modelHost) Run(_ context.Context, c hostcmd.Cmd) ([]byte, error) {
	key := filepath.Base(c.Argv[0]) + " " + c.Argv[1]
	text, ok := m.says[key]
	if !ok {
		return nil, fmt.Errorf("run %s: exit status 1", key)
	}
	return []byte(text), nil
}

func find(t *testing.T, checks []Check, name string) Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no row %q in %v", name, checks)
	return Check{}
}

func TestAHostWithEverythingIsReady(t *testing.T) {
	for _, purpose := range []Purpose{ToRun, ToBuild} {
		h := newHost(t)
		h.Purpose = purpose
		checks := Run(context.Background(), h.Host)
		for _, c := range checks {
			if c.State != OK || c.Fix != "" || c.Detail == "" {
				t.Errorf("%s: %+v", purpose, c)
			}
		}
		if !Ready(checks) {
			t.Errorf("%s: not ready", purpose)
		}
	}
}

// lack changes a host so that it lacks one thing, and tells what doctor must report.
type lack struct {
	change      func(*modelHost)
	row         string
	state       State
	detail, fix string // parts of them
}

func lacks() map[string]lack {
	denied := func() error {
		return &banger.Error{Kind: banger.Unready, Why: &os.PathError{Op: "open", Path: "/dev/kvm", Err: syscall.EACCES}, Fix: process.JoinKVM}
	}
	return map[string]lack{
		"no qemu": {func(h *modelHost) { h.absent["qemu-system-x86_64"] = true },
			"QEMU", Missing, "not installed", "sudo apt-get install -y --no-install-recommends qemu-system-x86"},
		"qemu without microvm": {func(h *modelHost) { h.says["qemu-system-x86_64 -machine"] = "pc\n" },
			"QEMU", Missing, "no machine type microvm", "sudo apt-get install -y --no-install-recommends qemu-system-x86"},
		"no mke2fs": {func(h *modelHost) { h.absent["mke2fs"] = true },
			"e2fsprogs", Missing, "mke2fs is not installed", "sudo apt-get install -y --no-install-recommends e2fsprogs"},
		"no ssh": {func(h *modelHost) { h.absent["ssh"] = true },
			"ssh", Missing, "not installed", "sudo apt-get install -y --no-install-recommends openssh-client"},
		"no mmdebstrap to build with": {func(h *modelHost) { h.Purpose = ToBuild; h.absent["mmdebstrap"] = true },
			"mmdebstrap", Missing, "not installed", "sudo apt-get install -y --no-install-recommends mmdebstrap"},
		"no newuidmap to build with": {func(h *modelHost) { h.Purpose = ToBuild; h.absent["newuidmap"] = true },
			"newuidmap", Missing, "not installed", "sudo apt-get install -y --no-install-recommends uidmap"},
		"no range of IDs": {func(h *modelHost) { h.Purpose = ToBuild; h.write("etc/subgid", "anna:100000:65536\n") },
			"newuidmap", Missing, "no range", "sudo usermod --add-subuids 231072-296607 --add-subgids 231072-296607 otto"},
		"namespaces forbidden": {func(h *modelHost) {
			h.Purpose = ToBuild
			h.write("proc/sys/kernel/unprivileged_userns_clone", "0\n")
		}, "user namespaces", Missing, "kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		"namespaces restricted by AppArmor": {func(h *modelHost) {
			h.Purpose = ToBuild
			h.write("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
		}, "user namespaces", Warn, "is 1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		"CPU without virtualization": {func(h *modelHost) { h.write("proc/cpuinfo", "flags : fpu sse2\n") },
			"/dev/kvm", Warn, "no virtualisation", "switch on VT-x or AMD-V in the firmware, or nested virtualisation"},
		"KVM module missing": {func(h *modelHost) {
			h.write("proc/cpuinfo", "flags : fpu svm\n")
			os.Remove(filepath.Join(h.Root, "dev/kvm"))
		}, "/dev/kvm", Warn, "KVM kernel module is not loaded", "sudo modprobe kvm_amd"},
		"as root, a device for root only": {func(h *modelHost) {
			h.CheckKVM = process.Host{CPUInfo: filepath.Join(h.Root, "proc/cpuinfo"), KVM: h.deviceOf(0o600), Root: true}.CheckKVM
		}, "/dev/kvm", Warn, "only root can open ", "groupadd --force --system kvm && chgrp kvm "},
		"not in the group kvm": {func(h *modelHost) { h.CheckKVM = denied },
			"/dev/kvm", Warn, "otto is not in the group kvm", "sudo usermod -aG kvm $USER, then log in again, then: banger daemon stop"},
		"in the group kvm since this login": {func(h *modelHost) { h.CheckKVM = denied; h.write("etc/group", "kvm:x:106:anna,otto\n") },
			"/dev/kvm", Warn, "next login", "newgrp kvm, then: banger daemon stop"},
		"QEMU that does not start": {func(h *modelHost) { delete(h.says, "qemu-system-x86_64 -machine") },
			"QEMU", Missing, "exit status 1", "sudo apt-get install -y --reinstall qemu-system-x86"},
		"no Go to build with": {func(h *modelHost) { h.Purpose = ToBuild; h.absent["go"] = true },
			"Go", Missing, "not installed", "install Go from https://go.dev/dl"},
		"no make to build with": {func(h *modelHost) { h.Purpose = ToBuild; h.absent["make"] = true },
			"make", Missing, "not installed", "sudo apt-get install -y --no-install-recommends make"},
		"an unknown driver": {func(h *modelHost) { h.Config.Driver = "qmeu" },
			"Firecracker", Missing, `there is no driver "qmeu"`, "set driver in config.toml, or BANGER_DRIVER, to one of auto, firecracker, qemu"},
		"Firecracker unusable": {func(h *modelHost) {
			h.Firecracker = probed{err: &banger.Error{Why: errors.New("no good"), Fix: "mend it"}}
		},
			"Firecracker", Warn, "no good; new VMs use QEMU", "mend it"},
		"Firecracker without KVM": {func(h *modelHost) {
			h.CheckKVM = func() error { return errors.New("no KVM") }
			h.Firecracker = probed{err: h.CheckKVM()}
		}, "Firecracker", OK, "needs KVM; new VMs use QEMU", ""},
		"a daemon of another driver": {func(h *modelHost) {
			h.Daemon = func(context.Context) (banger.Daemon, error) { return banger.Daemon{PID: 7, Driver: "qemu"}, nil }
		}, "daemon", Warn, "still uses qemu for new VMs", "banger daemon stop"},
		"no network": {func(h *modelHost) {
			h.offers(network.Offer{Mode: network.None, Why: "only root may open /dev/net/tun", Fix: "open it"})
		},
			"network", Warn, "VMs have no network: only root may open", "open it"},
		"no network, and a daemon that has seen that": {func(h *modelHost) {
			h.offers(network.Offer{Mode: network.None, Why: "only root may open /dev/net/tun", Fix: "open it"})
			h.Daemon = func(context.Context) (banger.Daemon, error) { return banger.Daemon{PID: 7, Driver: "firecracker"}, nil }
		}, "network", Warn, "VMs have no network", "open it, then: banger daemon stop"},
		"no bangerd to ask": {func(h *modelHost) {
			h.Offer = func(context.Context) (network.Offer, error) {
				return network.Offer{}, &banger.Error{Kind: banger.Unready, Why: errors.New("bangerd is not installed"), Fix: "make build"}
			}
		}, "network", Warn, "unknown: bangerd is not installed", "make build"},
		"names: not told to systemd-resolved": {func(h *modelHost) { h.remove("etc/systemd/resolved.conf.d/banger.conf") },
			"names", Warn, "do not find NAME.vm", "sudo mkdir -p /etc/systemd/resolved.conf.d && printf"},
		"names: systemd-resolved with servers for all links": {func(h *modelHost) { h.write("etc/systemd/resolved.conf", "[Resolve]\nDNS=192.168.1.1\n") },
			"names", Warn, "asks the servers in ", "give these servers to"},
		"names: systemd-resolved beside another server": {func(h *modelHost) {
			h.write("etc/resolv.conf", "nameserver 192.168.1.1\n")
			h.write("etc/nsswitch.conf", "passwd: files\nhosts: files resolve dns\n")
		}, "names", Warn, "asks another machine", ""},
		"names: of another state directory": {func(h *modelHost) {
			h.offers(network.Offer{Mode: network.Usernet, Resolver: netip.MustParseAddrPort("127.53.1.2:53610")})
		}, "names", Warn, "do not find NAME.vm", "sudo mkdir -p"},
		"names: NetworkManager's dnsmasq": {func(h *modelHost) {
			h.write("etc/resolv.conf", "nameserver 127.0.1.1\n")
			h.write("etc/NetworkManager/conf.d/dns.conf", "[main]\ndns=dnsmasq\n")
		}, "names", Warn, "do not find NAME.vm", "echo server=/vm/127.53.1.2#5361 | sudo tee /etc/NetworkManager/dnsmasq.d/banger.conf && sudo nmcli general reload dns-full"},
		"names: dnsmasq": {func(h *modelHost) {
			h.write("etc/resolv.conf", "nameserver 127.0.0.1\n")
			h.write("etc/dnsmasq.conf", "")
		}, "names", Warn, "do not find NAME.vm", "echo server=/vm/127.53.1.2#5361 | sudo tee /etc/dnsmasq.d/banger.conf && sudo systemctl restart dnsmasq"},
		"names: no resolver of the host's own": {func(h *modelHost) { h.write("etc/resolv.conf", "nameserver 192.168.1.1\n") },
			"names", Warn, "asks another machine", "sudo apt-get install -y --no-install-recommends systemd-resolved"},
		"keys without effect": {func(h *modelHost) {
			h.Config.Legacy = []string{"mapdns_bin: superseded", "default_kernel: not yet used"}
		},
			"configuration", Warn, "mapdns_bin: superseded, default_kernel: not yet used", "remove mapdns_bin, default_kernel from "},
		"another distribution": {func(h *modelHost) { h.write("etc/os-release", "ID=fedora\nVERSION_ID=42\nPRETTY_NAME=\"Fedora 42\"\n") },
			"host", Warn, "Fedora 42 is untested", ""},
		"full disk": {func(h *modelHost) { h.Free = func(string) (banger.Size, error) { return banger.GiB, nil } },
			"disk space", Missing, "1G free", "free 3G on /"},
		"no runtime": {func(h *modelHost) { os.Remove(h.Config.Bundle().Manifest()) },
			"runtime", Missing, "no complete runtime bundle in", "make runtime"},
		"a daemon that does not answer": {func(h *modelHost) {
			h.Daemon = func(context.Context) (banger.Daemon, error) {
				return banger.Daemon{}, &banger.Error{Kind: banger.TimedOut, Why: errors.New("no answer"), Fix: "banger daemon stop"}
			}
		}, "daemon", Missing, "no answer", "banger daemon stop"},
	}
}

func TestEveryLackHasItsFix(t *testing.T) {
	for name, test := range lacks() {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			test.change(h)
			checks := Run(context.Background(), h.Host)
			c := find(t, checks, test.row)
			if c.State != test.state || !strings.Contains(c.Detail, test.detail) || !strings.HasPrefix(c.Fix, test.fix) {
				t.Errorf("got %+v, want %s, %q, %q", c, test.state, test.detail, test.fix)
			}
			if Ready(checks) != (test.state != Missing) {
				t.Errorf("ready: %v", Ready(checks))
			}
		})
	}
}

func TestRunningNeedsNoToolsOfTheBuild(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"go", "make", "mmdebstrap", "newuidmap"} {
		h.absent[name] = true
	}
	if checks := Run(context.Background(), h.Host); !Ready(checks) {
		t.Errorf("not ready: %+v", checks)
	}
	os.Remove(h.Config.Bundle().Manifest())
	checks := Run(context.Background(), h.Host)
	if c := find(t, checks, "mmdebstrap"); c.State != Missing {
		t.Errorf("without a runtime: %+v", c)
	}
}

func TestRootNeedsNoRangeOfIDs(t *testing.T) {
	h := newHost(t)
	h.Purpose, h.UID = ToBuild, 0
	h.absent["newuidmap"] = true
	h.write("proc/sys/kernel/unprivileged_userns_clone", "0\n")
	if checks := Run(context.Background(), h.Host); !Ready(checks) {
		t.Errorf("not ready: %+v", checks)
	}
}

func TestThisHostIsLookedAtWithoutWriting(t *testing.T) {
	dir := t.TempDir()
	dirs := config.Dirs{State: filepath.Join(dir, "state")}
	cfg := config.Config{RuntimeDir: filepath.Join(dir, "runtime")}
	for _, c := range Run(context.Background(), ThisHost(ToBuild, dirs, cfg, probed{}, nil)) {
		if c.Detail == "" || c.State == Missing && c.Fix == "" {
			t.Errorf("%+v", c)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("wrote %v", left)
	}
}

var update = flag.Bool("update", false, "rewrite testdata/lines.txt")

// TestLines compares all that doctor prints with a file that can be read as one text.
func TestLines(t *testing.T) {
	var out strings.Builder
	print := func(h *modelHost, c Check) {
		text := fmt.Sprintf("%s: %s: %s\n", c.State, c.Name, c.Detail)
		if c.Fix != "" {
			text += "    " + c.Fix + "\n"
		}
		out.WriteString(freeOn.ReplaceAllString(strings.ReplaceAll(text, h.Root, "ROOT"), "$1 MOUNTPOINT"))
	}
	whole := newHost(t)
	whole.Purpose = ToBuild
	for _, c := range Run(t.Context(), whole.Host) {
		print(whole, c)
	}
	all := lacks()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		h := newHost(t)
		all[name].change(h)
		fmt.Fprintf(&out, "\n# %s\n", name)
		print(h, find(t, Run(t.Context(), h.Host), all[name].row))
	}
	const path = "testdata/lines.txt"
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != out.String() {
		t.Errorf("%s differs (%v); fix: go test -run TestLines ./internal/doctor -update; now:\n%s", path, err, out.String())
	}
}

var freeOn = regexp.MustCompile(`(free \S+ on) /\S*`)
