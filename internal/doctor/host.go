package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"banger"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/detach"
	"banger/internal/disk"
	"banger/internal/subid"
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
		c.Detail = "unknown distribution"
	}
	if runtime.GOARCH != "amd64" {
		c.State, c.Detail, c.Fix = Missing, c.Detail+" on "+runtime.GOARCH, "use a host with an x86-64 CPU; no other is supported"
		return c
	}
	if release["ID"] != "debian" || release["VERSION_ID"] != "12" && release["VERSION_ID"] != "13" {
		c.State, c.Detail = Warn, c.Detail+" is untested; Debian 12 and 13 are tested"
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

// kvm is never Missing: without KVM, QEMU emulates the CPU.
func kvm(_ context.Context, h Host) Check {
	c := Check{Name: "/dev/kvm", State: OK, Detail: "usable"}
	err := h.CheckKVM()
	if err == nil {
		return c
	}
	c.State, c.Detail, c.Fix = Warn, err.Error(), banger.FixOf(err)
	switch {
	case c.Fix == "banger doctor":
		c.Fix = "" // the user runs it now
	case errors.Is(err, os.ErrNotExist):
		c.Detail = "the KVM kernel module is not loaded"
	case errors.Is(err, os.ErrPermission) && slices.Contains(membersOf(h.read("etc/group"), "kvm"), h.User):
		c.Detail, c.Fix = h.User+" is in the group kvm, but only from the next login on", "newgrp kvm, then: banger daemon stop"
	case errors.Is(err, os.ErrPermission):
		c.Detail = h.User + " is not in the group kvm"
	}
	c.Detail += "; VMs run on an emulated CPU, several times slower"
	return c
}

// firecracker checks whether new VMs use Firecracker, and why not.
func firecracker(ctx context.Context, h Host) Check {
	c := Check{Name: "Firecracker", State: OK}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	capabilities, err := h.Firecracker.Probe(ctx)
	wanted := h.Config.Driver
	known := []string{vmm.Auto, h.Firecracker.Name(), "qemu"}
	switch {
	case !slices.Contains(known, wanted): // the daemon does not start
		c.State, c.Detail = Missing, fmt.Sprintf("there is no driver %q", wanted)
		c.Fix = "set driver in config.toml, or BANGER_DRIVER, to one of " + strings.Join(known, ", ")
	case err == nil && wanted == h.Firecracker.Name(), err == nil && wanted == vmm.Auto:
		c.Detail = capabilities.Version + " runs new VMs"
	case err == nil:
		c.Detail = capabilities.Version + " is usable; new VMs use " + wanted
	case wanted == h.Firecracker.Name():
		c.State, c.Detail, c.Fix = Missing, err.Error(), banger.FixOf(err)
	default:
		c.State, c.Detail, c.Fix = Warn, err.Error(), banger.FixOf(err)
		if kvm := h.CheckKVM(); kvm != nil && kvm.Error() == c.Detail { // the row /dev/kvm has the warning
			c.State, c.Detail, c.Fix = OK, "needs KVM", ""
		}
		c.Detail += "; new VMs use QEMU"
	}
	return c
}

// membersOf returns the members of a group, from the text of /etc/group.
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
		// Debian's package is older than the version in go.mod.
		c.Package, c.Fix = "", "install Go from https://go.dev/dl and put its bin directory in PATH"
		return h.onlyToBuild(c)
	}
	if version, err := ask(ctx, h, "go", "env", "GOVERSION"); err == nil {
		c.Detail = strings.TrimSpace(version)
	}
	return c
}

// onlyToBuild turns Missing into Warn unless banger is to be built.
func (h Host) onlyToBuild(c Check) Check {
	if c.State == Missing && h.Purpose != ToBuild {
		c.State, c.Detail = Warn, c.Detail+"; it is only needed to build banger"
	}
	return c
}

// minSpace is what a runtime, or the first days of a VM, need.
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
			c.Fix = fmt.Sprintf("free %s on %s", minSpace-free, disk.MountPoint(existing(dir)))
		}
		parts = append(parts, fmt.Sprintf("%s free in %s", free, dir))
	}
	c.Detail = strings.Join(parts, ", ")
	return c
}

// subIDs checks what mmdebstrap needs to unpack files of other owners as a plain
// user: two setuid programs and a range of ids.
func subIDs(_ context.Context, h Host) Check {
	const name = "newuidmap"
	if h.UID == 0 {
		return Check{Name: name, State: OK, Detail: "root does not need it"}
	}
	c := tool(h, name, "uidmap", "newuidmap", "newgidmap")
	if c.State != OK {
		return c
	}
	if err := subid.Check(h.Root, h.User, h.UID); err != nil {
		return Check{Name: name, State: Missing, Detail: err.Error(), Fix: banger.FixOf(err)}
	}
	c.Detail += fmt.Sprintf(" and %d ids for %s", subid.Enough, h.User)
	return c
}

// namespaces checks that a plain user may create a user namespace.
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
		// mmdebstrap may still have an AppArmor profile that allows it.
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
		c.Detail = "not built yet; it will be in " + h.Config.RuntimeDir
		return c
	}
	c.State, c.Detail, c.Fix = Missing, "no complete runtime bundle in "+h.Config.RuntimeDir, "make runtime"
	return c
}

func daemon(ctx context.Context, h Host) Check {
	c := Check{Name: "daemon", State: OK}
	d, err := h.Daemon(ctx)
	switch {
	case banger.KindOf(err) == banger.NotFound:
		c.Detail = "not running; it starts when it is needed"
	case err != nil:
		c.State, c.Detail, c.Fix = Missing, err.Error(), banger.FixOf(err)
	default:
		c.Detail = fmt.Sprintf("pid %d, %d running VMs, log %s", d.PID, d.Running, d.Log)
		if why := outdated(ctx, h, d); why != "" {
			c.State, c.Detail, c.Fix = Warn, c.Detail+"; "+why, "banger daemon stop"
		} else if problem := h.inherited(d); problem != (detach.Problem{}) {
			c.State, c.Detail, c.Fix = Warn, c.Detail+"; "+problem.What, problem.Fix
		}
	}
	return c
}

// inherited returns the first thing that the daemon got from the shell that started it
// and could not reset, if there is one.
func (h Host) inherited(d banger.Daemon) detach.Problem {
	if h.Inherited == nil {
		return detach.Problem{}
	}
	problems, err := h.Inherited(d.PID)
	if err != nil || len(problems) == 0 {
		return detach.Problem{}
	}
	return problems[0]
}

// outdated returns what has changed since the daemon started, or "". A daemon
// reads its runtime, its configuration and its groups only at its start.
func outdated(ctx context.Context, h Host, d banger.Daemon) string {
	started, err := os.Stat(h.Dirs.DaemonLock()) // written at each start
	if err == nil {
		made, err := os.Stat(config.BundleDir(d.Runtime).Manifest())
		if err == nil && made.ModTime().After(started.ModTime()) {
			return "it started before its runtime was built"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = h.Firecracker.Probe(ctx)
	usable, used := err == nil, d.Driver == h.Firecracker.Name()
	if wanted := h.Config.Driver; wanted == vmm.Auto && usable != used || wanted != vmm.Auto && wanted != d.Driver {
		return "it still uses " + d.Driver + " for new VMs"
	}
	return ""
}

// configuration names the keys in config.toml that have no effect.
func configuration(_ context.Context, h Host) Check {
	var names []string
	for _, key := range h.Config.Legacy {
		name, _, _ := strings.Cut(key, ":")
		names = append(names, name)
	}
	return Check{Name: "configuration", State: Warn, Detail: "keys without effect: " + strings.Join(h.Config.Legacy, ", "),
		Fix: "remove " + strings.Join(names, ", ") + " from " + h.Dirs.ConfigFile()}
}
