package namespace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/hostcmd"
)

// device is where TAPs are made and opened.
const device = "/dev/net/tun"

// Check returns an Unready error, with the fix for this host, if a plain user's VMs
// cannot have a network here. It tries all that they need, and leaves nothing.
func Check(ctx context.Context) error {
	for _, tool := range []string{"nsenter", "setpriv"} {
		if _, err := (hostcmd.Host{}).Look(tool); err != nil {
			return missing(tool)
		}
	}
	if err := CheckDevice(false); err != nil {
		return err
	}
	ns, _, err := Make(ctx, Request{})
	if err != nil {
		return err
	}
	defer ns.Close()
	if _, err := Run(ctx, ns, Request{try: true}); err != nil {
		return diagnose(err)
	}
	return nil
}

// missing returns the error for a command of util-linux that is not installed.
func missing(tool string) error {
	return unready(fmt.Errorf("the command %s is not installed", tool), "sudo apt install util-linux")
}

func unready(why error, fix string) error {
	return &banger.Error{Kind: banger.Unready, Why: why, Fix: fix}
}

// CheckDevice returns an Unready error if this user cannot open TAPs here or, with
// everybody, if not every user of the host can: a VMM of root's runs as nobody.
func CheckDevice(everybody bool) error {
	file, err := os.OpenFile(device, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return explainDevice(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err == nil && everybody && info.Mode().Perm()&0o006 != 0o006 {
		err = &fs.PathError{Op: "open", Path: device, Err: syscall.EACCES}
	}
	if err != nil {
		return explainDevice(err)
	}
	return nil
}

// openDevice makes the device what it is on most distributions, now and from the next
// start of the host on.
const openDevice = `echo 'KERNEL=="tun", MODE="0666"' | sudo tee /etc/udev/rules.d/60-banger-tun.rules && sudo chmod 666 ` + device

func explainDevice(err error) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return unready(errors.New("only root may open "+device+", and VMs need it for their network"), openDevice)
	case errors.Is(err, syscall.EPERM):
		return unready(errors.New("this container may not open "+device), "start the container with --device "+device)
	case errors.Is(err, fs.ErrNotExist):
		return unready(errors.New("there is no "+device), "sudo modprobe tun; in a container, start that with --device "+device)
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return unready(errors.New("this kernel has no TAPs"), "sudo modprobe tun")
	}
	return unready(err, "banger doctor")
}

// The kernel's switches that forbid user namespaces or network namespaces.
const (
	userLimit = "/proc/sys/user/max_user_namespaces"
	netLimit  = "/proc/sys/user/max_net_namespaces"
	userClone = "/proc/sys/kernel/unprivileged_userns_clone" // of Debian's and Arch's kernels
	appArmor  = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
)

// host is what a diagnosis depends on.
type host struct {
	switches map[string]string // their values; one that the kernel lacks is missing
	program  string            // the path of this program
}

// diagnose returns the reason why the host refuses namespaces, for an error of Make or of
// the child inside, and other errors as they are.
func diagnose(err error) error {
	h := host{switches: map[string]string{}}
	for _, name := range []string{userLimit, netLimit, userClone, appArmor} {
		if text, err := os.ReadFile(name); err == nil {
			h.switches[name] = strings.TrimSpace(string(text))
		}
	}
	h.program, _ = os.Executable()
	return h.explain(err)
}

func (h host) explain(err error) error {
	if e := (*banger.Error)(nil); errors.As(err, &e) && e.Fix != "" {
		return err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return h.explainLimit()
	case errors.Is(err, syscall.EPERM) && h.switches[userClone] == "0":
		return unready(errors.New("this kernel lets only root make user namespaces (kernel.unprivileged_userns_clone is 0)"),
			setSwitch("kernel.unprivileged_userns_clone", 1))
	case (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)) && h.switches[appArmor] == "1":
		return unready(errors.New("AppArmor lets only programs with a profile use user namespaces"), h.profile())
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return unready(fmt.Errorf("this user may not use user namespaces, as in a chroot or in most containers: %w", err),
			"run banger outside, or start the container with --security-opt seccomp=unconfined")
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSYS):
		return unready(fmt.Errorf("this kernel has no user namespaces: %w", err), "use a kernel with CONFIG_USER_NS and CONFIG_NET_NS")
	}
	return err
}

// explainLimit tells which limit a new namespace exceeds.
func (h host) explainLimit() error {
	const enough = 15000
	for _, limit := range []struct{ name, file, of string }{
		{"user.max_user_namespaces", userLimit, "user"}, {"user.max_net_namespaces", netLimit, "network"},
	} {
		if h.switches[limit.file] == "0" {
			return unready(fmt.Errorf("this host allows no %s namespaces (%s is 0)", limit.of, limit.name), setSwitch(limit.name, enough))
		}
	}
	return unready(fmt.Errorf("this user has as many namespaces as the host allows (user.max_user_namespaces is %s, user.max_net_namespaces is %s)",
		h.switches[userLimit], h.switches[netLimit]), "end programs that made them, such as containers and browsers, or raise the limits with sysctl")
}

// setSwitch returns the command that sets a switch now and from the next start on.
func setSwitch(name string, value int) string {
	return fmt.Sprintf("echo %s=%d | sudo tee -a /etc/sysctl.d/60-banger.conf && sudo sysctl -p /etc/sysctl.d/60-banger.conf", name, value)
}

// profile returns the command that gives this program, and no other, an AppArmor profile
// that only allows user namespaces. A profile belongs to a path.
func (h host) profile() string {
	name := "banger." + strings.ReplaceAll(strings.Trim(filepath.Clean(h.program), "/"), "/", ".")
	return fmt.Sprintf(`printf 'abi <abi/4.0>,\nprofile %s "%s" flags=(unconfined) { userns, }\n' | sudo tee /etc/apparmor.d/%[1]s && sudo apparmor_parser -r /etc/apparmor.d/%[1]s`,
		name, h.program)
}
