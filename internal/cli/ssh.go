package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
)

func newSSH(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh [flags] NAME [-- COMMAND...]",
		Short: "Log in to a running VM with your own ssh",
		Long: "Log in to a running VM as root, with your own ssh. It connects through the daemon and needs no network.\n" +
			"ssh gives a command to a shell in the VM; `banger vm exec` runs a program without a shell.",
		Example:           "  banger vm ssh calm-otter\n  banger vm ssh calm-otter -- 'cd /srv && ls'",
		Args:              args(1, anyNumber),
		ValidArgsFunction: a.firstVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runSSH(cmd.Context(), args[0], afterDashes(args[1:]))
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) runSSH(ctx context.Context, ref string, command []string) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	vm, err := svc.ShowVM(ctx, ref)
	if err != nil {
		return err
	}
	if _, ok := vm.State.On(banger.Reach); !ok {
		return banger.Refuse(banger.Reach, vm.Name, vm.State)
	}
	path, argv, err := a.sshCommand(ctx, vm, command)
	if err != nil {
		return err
	}
	return a.replace(path, argv, sshEnvironment(os.Environ()))
}

// sshEnvironment returns an environment in which ssh runs its ProxyCommand by a plain
// shell. The user's own may be a program that allows no login, know other quotes, or
// print something when it starts.
func sshEnvironment(env []string) []string {
	others := slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "SHELL=") })
	return append(others, "SHELL=/bin/sh")
}

// sshCommand returns the path and the arguments of the user's ssh to vm. A configuration
// that ssh refuses is left out.
func (a *app) sshCommand(ctx context.Context, vm banger.VM, command []string) (string, []string, error) {
	path, err := exec.LookPath("ssh")
	if err != nil {
		return "", nil, &banger.Error{Kind: banger.Unready, Why: errors.New("ssh is not installed"), Fix: "sudo apt-get install openssh-client"}
	}
	proxy, err := proxyCommand(vm)
	if err != nil {
		return "", nil, err
	}
	argv := guest.SSHArgv(vm, proxy, command)
	if why := refused(ctx, path, argv); why != "" {
		fmt.Fprintf(a.std.Err, "note: ssh runs without your configuration, which it refuses: %s\n", clean(why))
		argv = slices.Insert(argv, 1, "-F", "none")
	}
	return path, argv, nil
}

// configTime bounds how long ssh may take to read the user's configuration, which may run
// programs.
const configTime = 10 * time.Second

// refused returns why ssh does not accept the user's configuration, or an empty string: it
// may have an unknown keyword, a file that others can write, or a program that hangs.
func refused(ctx context.Context, path string, argv []string) string {
	ctx, cancel := context.WithTimeout(ctx, configTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, slices.Insert(slices.Clone(argv[1:]), 0, "-G")...)
	cmd.Env = sshEnvironment(os.Environ())
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	if err == nil {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
	return cmp.Or(strings.TrimSpace(first), err.Error())
}

// proxyCommand returns this program's command that connects to vm's SSH port.
func proxyCommand(vm banger.VM, flags ...string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	return slices.Concat([]string{self, "vm", "proxy"}, flags, []string{string(vm.ID), strconv.Itoa(wire.PortSSH)}), nil
}

// spawn runs ssh as a child that owns the terminal. The keyboard's signals reach it
// anyway; spawn passes on the others.
func spawn(argv []string, signals <-chan os.Signal) (int, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = sshEnvironment(os.Environ())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start ssh: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			if sig != os.Interrupt {
				_ = cmd.Process.Signal(sig)
			}
		case err := <-ended:
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				return max(exit.ExitCode(), 1), nil
			}
			return 0, err
		}
	}
}

// afterDashes drops a -- between a VM's name and a command.
func afterDashes(args []string) []string {
	if len(args) > 0 && args[0] == "--" {
		return args[1:]
	}
	return args
}

func newProxy(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:     "proxy NAME PORT",
		Short:   "Connect stdin and stdout to a port of a VM's agent",
		Long:    "Connect stdin and stdout to a port of a VM's agent. ssh uses it as its ProxyCommand. NAME.vm is\nthe VM of this name, never one whose ID begins so.",
		Example: "  banger vm proxy calm-otter 22",
		Hidden:  true,
		Args:    args(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			port, err := strconv.ParseUint(args[1], 10, 16)
			if err != nil || port == 0 {
				return banger.Invalidf("give a number from 1 to 65535", "%q is not a port", args[1])
			}
			return a.runProxy(cmd.Context(), args[0], int(port), name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "refuse to connect unless this is the VM's name")
	return cmd
}

// checkName returns an error unless the VM still has the name in its ssh entry.
func checkName(ctx context.Context, svc service, ref, name string) error {
	vm, err := svc.ShowVM(ctx, ref)
	if banger.KindOf(err) == banger.NotFound {
		err = errors.New("that VM was deleted")
	}
	if err == nil && vm.Name != name {
		err = fmt.Errorf("that VM is named %s now", vm.Name)
	}
	if err == nil {
		return nil
	}
	return &banger.Error{What: fmt.Sprintf("the ssh entry for %s is out of date", name), Why: err,
		Fix: "replace it: banger vm ssh-config"}
}

// named returns the ID of the VM that has this name: ssh must not reach one whose ID
// begins so.
func named(ctx context.Context, svc service, name string) (string, error) {
	vm, err := svc.ShowVM(ctx, name)
	if err == nil && name != vm.Name {
		err = banger.Refuse(banger.Reach, name, banger.Gone)
	}
	return string(vm.ID), err
}

func (a *app) runProxy(ctx context.Context, ref string, port int, name string) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	switch host, ok := strings.CutSuffix(ref, ".vm"); {
	case ok:
		if ref, err = named(ctx, svc, strings.ToLower(host)); err != nil {
			return err
		}
	case name != "":
		if err := checkName(ctx, svc, ref, name); err != nil {
			return err
		}
	}
	conn, err := svc.DialVM(ctx, ref, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The stream has no half-close: the end of either direction is its end.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(conn, a.std.In)
		conn.Close()
	}()
	_, err = io.Copy(a.std.Out, conn)
	switch {
	case ctx.Err() != nil:
		return exitStatus(exitInterrupted) // ssh ends its proxy so, and would show an error
	case errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe), errors.Is(err, syscall.EPIPE): // ssh has ended
		return nil
	}
	return err
}
