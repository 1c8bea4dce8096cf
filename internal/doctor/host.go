package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/vmm"
)

func distribution(_ context.Context, h Host) Check {
	c := Check{Name: "host", State: OK}
	release := map[string]string{}
	for line := range strings.Lines(h.read("etc/os-release")) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			release[key] = strings.Trim(value, `"'`)
		}
	}
	c.Detail = release["PRETTY_NAME"]
	if c.Detail == "" {
		c.Detail = "an unknown distribution"
	}
	if runtime.GOARCH != "amd64" {
		c.State, c.Detail, c.Fix = Missing, c.Detail+" on "+runtime.GOARCH, "use a host with an x86-64 CPU: others are not supported"
		return c
	}
	if release["ID"] != "debian" || release["VERSION_ID"] != "12" && release["VERSION_ID"] != "13" {
		c.State, c.Detail = Warn, c.Detail+": untested, Debian 12 and 13 are tested"
	}
	return c
}

func qemu(ctx context.Context, h Host) Check {
	const name, pkg = "QEMU", "qemu-system-x86"
	c := tool(h, name, pkg, "qemu-system-x86_64")
	if c.State != OK {
		return c
	}
	binary, _ := h.Runner.Look("qemu-system-x86_64")
	machines, err := ask(ctx, h, binary, "-machine", "help")
	if err != nil {
		return Check{Name: name, State: Missing, Detail: err.Error(), Fix: "sudo apt-get install -y --reinstall " + pkg}
	}
	if !strings.Contains(machines, "microvm") {
		return Check{Name: name, State: Missing, Detail: binary + " has no machine type microvm", Fix: install(pkg), Package: pkg}
	}
	c.Detail = binary + " with microvm"
	if version, err := ask(ctx, h, binary, "--version"); err == nil {
		if _, rest, ok := strings.Cut(version, "version "); ok {
			c.Detail = strings.Fields(rest)[0] + " with microvm"
		}
	}
	return c
}

// kvm never makes a host unfit: QEMU emulates the CPU where KVM is missing.
func kvm(_ context.Context, h Host) Check {
	c := Check{Name: "/dev/kvm", State: Warn}
	const slow = "; VMs run, but emulated and several times slower"
	module := ""
	for _, flag := range cpuFlags(h.read("proc/cpuinfo")) {
		switch flag {
		case "vmx":
			module = "kvm_intel"
		case "svm":
			module = "kvm_amd"
		}
	}
	if module == "" {
		c.Detail = "the CPU shows neither vmx nor svm" + slow
		c.Fix = "switch virtualization on in the firmware, or nested virtualization on if this host is a VM itself"
		return c
	}
	err := h.OpenKVM()
	switch {
	case err == nil:
		return Check{Name: "/dev/kvm", State: OK, Detail: "usable"}
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		c.Detail, c.Fix = "the kernel module "+module+" is not loaded"+slow, "sudo modprobe "+module
	case errors.Is(err, os.ErrPermission) && slices.Contains(membersOf(h.read("etc/group"), "kvm"), h.User):
		c.Detail, c.Fix = "the group kvm counts from the next login on"+slow, "newgrp kvm, then: banger daemon stop"
	case errors.Is(err, os.ErrPermission):
		c.Detail, c.Fix = h.User+" is not in the group kvm"+slow, vmm.JoinKVM
	default:
		c.Detail, c.Fix = err.Error()+slow, "sudo modprobe "+module
	}
	return c
}

// firecracker says whether new VMs are run by Firecracker, and else why not.
func firecracker(ctx context.Context, h Host) Check {
	c := Check{Name: "Firecracker", State: OK}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	capabilities, err := h.Firecracker.Probe(ctx)
	wanted := h.Config.Driver
	known := []string{vmm.Auto, h.Firecracker.Name(), "qemu"}
	switch {
	case !slices.Contains(known, wanted): // the daemon would not start
		c.State, c.Detail = Missing, fmt.Sprintf("there is no driver %q", wanted)
		c.Fix = "set driver in config.toml, or BANGER_DRIVER, to one of " + strings.Join(known, ", ")
	case err == nil && wanted == h.Firecracker.Name(), err == nil && wanted == vmm.Auto:
		c.Detail = capabilities.Version + " runs new VMs"
	case err == nil:
		c.Detail = capabilities.Version + " is usable; new VMs are run by " + wanted
	case wanted == h.Firecracker.Name():
		c.State, c.Detail, c.Fix = Missing, err.Error(), banger.FixOf(err)
	default:
		c.State, c.Detail, c.Fix = Warn, err.Error()+"; VMs are run by QEMU", banger.FixOf(err)
	}
	return c
}

func cpuFlags(cpuinfo string) []string {
	for line := range strings.Lines(cpuinfo) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "flags" {
			return strings.Fields(value)
		}
	}
	return nil
}

func membersOf(groups, name string) []string {
	for line := range strings.Lines(groups) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) == 4 && fields[0] == name {
			return strings.Split(fields[3], ",")
		}
	}
	return nil
}

func e2fsprogs(_ context.Context, h Host) Check {
	return tool(h, "e2fsprogs", "e2fsprogs", "mke2fs", "e2fsck")
}

func ssh(_ context.Context, h Host) Check { return tool(h, "ssh", "openssh-client", "ssh") }

func mmdebstrap(_ context.Context, h Host) Check {
	return tool(h, "mmdebstrap", "mmdebstrap", "mmdebstrap")
}

func makeTool(_ context.Context, h Host) Check {
	c := tool(h, "make", "make", "make")
	return h.onlyToBuild(c)
}

func golang(ctx context.Context, h Host) Check {
	c := tool(h, "Go", "golang-go", "go")
	if c.State == Missing {
		// Debian's own package is older than what the module asks for.
		c.Package, c.Fix = "", "install Go from https://go.dev/dl and put its bin directory in PATH"
		return h.onlyToBuild(c)
	}
	if version, err := ask(ctx, h, "go", "env", "GOVERSION"); err == nil {
		c.Detail = strings.TrimSpace(version)
	}
	return c
}

// onlyToBuild makes a lack harmless where nothing is going to be built.
func (h Host) onlyToBuild(c Check) Check {
	if c.State == Missing && h.Purpose != ToBuild {
		c.State, c.Detail = Warn, c.Detail+"; only building banger needs it"
	}
	return c
}

// minSpace is what a runtime, or a VM's first days, take.
const minSpace = 4 * banger.GiB

func space(_ context.Context, h Host) Check {
	c := Check{Name: "disk space", State: OK}
	var parts []string
	for _, dir := range []string{h.Dirs.State, h.Config.RuntimeDir} {
		free, err := h.Free(dir)
		if err != nil {
			return Check{Name: c.Name, State: Missing, Detail: err.Error(), Fix: "make " + dir + " a directory you can write to"}
		}
		if free < minSpace {
			c.State = Missing
			c.Fix = fmt.Sprintf("free %s where %s is", minSpace-free, dir)
		}
		parts = append(parts, fmt.Sprintf("%s free at %s", free, dir))
	}
	c.Detail = strings.Join(parts, ", ")
	return c
}

// subIDs asks for what mmdebstrap needs to unpack another root's files as a
// plain user: the setuid helpers, and a range of IDs.
func subIDs(_ context.Context, h Host) Check {
	const name, enough = "newuidmap", 65536
	if h.UID == 0 {
		return Check{Name: name, State: OK, Detail: "root does not need it"}
	}
	c := tool(h, name, "uidmap", "newuidmap", "newgidmap")
	if c.State != OK {
		return c
	}
	uids, afterUIDs := idRanges(h.read("etc/subuid"), h.User, h.UID)
	gids, afterGIDs := idRanges(h.read("etc/subgid"), h.User, h.UID)
	if uids < enough || gids < enough {
		from := max(afterUIDs, afterGIDs)
		to := from + enough - 1
		return Check{Name: name, State: Missing, Detail: fmt.Sprintf("%s has no range of %d IDs in /etc/subuid and /etc/subgid", h.User, enough),
			Fix: fmt.Sprintf("sudo usermod --add-subuids %d-%d --add-subgids %d-%d %s", from, to, from, to, h.User)}
	}
	c.Detail += fmt.Sprintf(" and %d IDs for %s", enough, h.User)
	return c
}

// idRanges returns the size of the user's largest range and the first ID that
// is beyond everybody's.
func idRanges(text, user string, uid int) (largest, next int) {
	next = 100000
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 3 {
			continue
		}
		from, err1 := strconv.Atoi(fields[1])
		count, err2 := strconv.Atoi(fields[2])
		if err1 != nil || err2 != nil {
			continue
		}
		next = max(next, from+count)
		if fields[0] == user || fields[0] == strconv.Itoa(uid) {
			largest = max(largest, count)
		}
	}
	return largest, next
}

// namespaces looks for what keeps a plain user from a user namespace.
func namespaces(_ context.Context, h Host) Check {
	c := Check{Name: "user namespaces", State: OK, Detail: "allowed"}
	if h.UID == 0 {
		c.Detail = "root does not need them"
		return c
	}
	for _, forbids := range []struct {
		sysctl, value, allow string
		state                State
	}{
		{"kernel.unprivileged_userns_clone", "0", "1", Missing},
		{"user.max_user_namespaces", "0", "10000", Missing},
		// A profile of the tool's own may allow it to mmdebstrap all the same.
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0", Warn},
	} {
		path := "proc/sys/" + strings.ReplaceAll(forbids.sysctl, ".", "/")
		if strings.TrimSpace(h.read(path)) == forbids.value {
			return Check{Name: c.Name, State: forbids.state, Detail: forbids.sysctl + " is " + forbids.value,
				Fix: fmt.Sprintf("sudo sysctl -w %s=%s", forbids.sysctl, forbids.allow)}
		}
	}
	return c
}

func runtimeBundle(_ context.Context, h Host) Check {
	c := Check{Name: "runtime", State: OK, Detail: h.Config.RuntimeDir}
	b, err := bundle.Open(h.Config.Bundle())
	if err == nil && h.hasRuntime() {
		c.Detail = fmt.Sprintf("%s: kernel %s, image %s", h.Config.RuntimeDir, b.Kernel.Release, b.Image.Name)
		return c
	}
	if h.Purpose == ToBuild {
		c.Detail = "none yet: it will be built in " + h.Config.RuntimeDir
		return c
	}
	c.State, c.Detail, c.Fix = Missing, "none that is whole in "+h.Config.RuntimeDir, "make runtime"
	return c
}

func daemon(ctx context.Context, h Host) Check {
	c := Check{Name: "daemon", State: OK}
	d, err := h.Daemon(ctx)
	switch {
	case banger.KindOf(err) == banger.NotFound:
		c.Detail = "not running: it starts by itself"
	case err != nil:
		c.State, c.Detail, c.Fix = Missing, err.Error(), banger.FixOf(err)
	default:
		c.Detail = fmt.Sprintf("pid %d, %d running VMs, log %s", d.PID, d.Running, d.Log)
		if why := outdated(ctx, h, d); why != "" {
			c.State, c.Detail, c.Fix = Warn, c.Detail+"; "+why, "banger daemon stop"
		}
	}
	return c
}

// outdated says what has changed since a daemon started, which looks only then:
// its runtime, its configuration, or the groups it is in.
func outdated(ctx context.Context, h Host, d banger.Daemon) string {
	started, err := os.Stat(h.Dirs.DaemonLock()) // it says there where it listens
	if err == nil {
		made, err := os.Stat(config.BundleDir(d.Runtime).Manifest())
		if err == nil && made.ModTime().After(started.ModTime()) {
			return "it was started before its runtime was built"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = h.Firecracker.Probe(ctx)
	usable, used := err == nil, d.Driver == h.Firecracker.Name()
	if wanted := h.Config.Driver; wanted == vmm.Auto && usable != used || wanted != vmm.Auto && wanted != d.Driver {
		return "it still runs new VMs by " + d.Driver
	}
	return ""
}

// idleKeys names what config.toml sets in vain, so that nobody waits for it.
func idleKeys(_ context.Context, h Host) Check {
	keys := h.Config.Idle()
	return Check{Name: "configuration", State: Warn, Detail: "without effect in this version: " + strings.Join(keys, ", "),
		Fix: "remove " + strings.Join(keys, ", ") + " from " + h.Dirs.ConfigFile()}
}
