package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/detach"
	"banger/internal/durable"
	"banger/internal/network/instance"
	"banger/internal/store"
	"banger/internal/version"
	"banger/internal/vmm"
)

// Env is what a daemon gets from outside.
type Env struct {
	Getenv         func(string) string
	Stdout, Stderr io.Writer

	// Drivers returns the ways to run VMs, the preferred one first. firecracker is the
	// path of the bundle's Firecracker, or empty.
	Drivers func(c config.Config, firecracker string) vmm.Drivers

	// Network opens the network of the daemon's VMs. It may be nil: VMs have none.
	Network func(ctx context.Context, dirs config.Dirs, s *store.Store, log *slog.Logger) (*instance.Network, error)

	// Isolate gives the daemon, or the VMM of a VM, a control group of its own. It may be nil.
	Isolate func(ctx context.Context, id string, pid int) error

	// Open opens what the daemon serves.
	Open func(ctx context.Context, env Env, dirs config.Dirs, c config.Config, log *slog.Logger) (Services, error)
}

// Main runs bangerd in the foreground until ctx ends, a signal comes or a
// client stops it, and returns the exit code. VMs keep running. A client that
// starts a daemon detaches it, and reads its report from the ready descriptor.
func Main(ctx context.Context, env Env, args []string) int {
	if code, ran := RunRole(args); ran {
		return code
	}
	flags := flag.NewFlagSet("bangerd", flag.ContinueOnError)
	flags.SetOutput(env.Stderr)
	ready := flags.Int("ready-fd", 0, "descriptor to report on, once, that the daemon serves or why it does not")
	detached := flags.Bool("detached", false, "set by bangerd itself once it is free of the shell that started it")
	printVersion := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *printVersion {
		fmt.Fprintln(env.Stdout, "bangerd", version.Version)
		return 0
	}
	if *ready > 2 && !*detached {
		fmt.Fprintf(env.Stderr, "bangerd: %v\n", detach.Exec(slices.Insert(slices.Clone(os.Args), 1, "--detached"), os.Environ()))
		return 1
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Caught, not ignored: programs that the daemon starts would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGPIPE)

	d := &daemon{env: env, stop: make(chan struct{}, 1)}
	if *ready > 2 {
		unix.CloseOnExec(*ready)
		closeInherited()
		d.ready = os.NewFile(uintptr(*ready), "ready")
	}
	if err := d.run(ctx); err != nil {
		d.report("", err)
		fmt.Fprintf(env.Stderr, "bangerd: %v\n", err)
		if fix := banger.FixOf(err); fix != "" {
			fmt.Fprintf(env.Stderr, "fix: %s\n", fix)
		}
		return 1
	}
	return 0
}

// closeInherited closes the descriptors that the daemon has inherited: otherwise it would
// hold a shell's lock or pipe as long as it runs. Only inherited descriptors lack the
// close-on-exec flag: Go sets it, and Main has set it on the ready descriptor.
func closeInherited() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // the daemon can run with them
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= unix.Stderr {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// report tells the client that started the daemon once whether the daemon serves.
func (d *daemon) report(socket string, err error) {
	if d.ready == nil {
		if err == nil {
			fmt.Fprintf(d.env.Stderr, "bangerd: serving at %s, logging to %s\n", socket, d.dirs.Log())
		}
		return
	}
	if other := (*taken)(nil); errors.As(err, &other) {
		socket = other.socket
	}
	// The client may have ended by now, which changes nothing.
	api.WriteReady(d.ready, socket, err)
	d.ready.Close()
	d.ready = nil
}

// directories finds the daemon's places and its configuration, and makes the
// places, private.
func (d *daemon) directories() error {
	var err error
	if d.dirs, err = config.DirsFrom(d.env.Getenv); err != nil {
		return err
	}
	if d.config, err = config.Load(d.dirs, d.env.Getenv); err != nil {
		return err
	}
	for _, dir := range []string{d.dirs.State, d.dirs.Cache} {
		err := durable.MkdirAll(dir, 0o700)
		if err == nil {
			err = checkOwner(dir)
		}
		if err == nil {
			err = os.Chmod(dir, 0o700)
		}
		if err != nil {
			return &banger.Error{Kind: banger.Unready, What: "start bangerd", Why: err, Fix: "make " + dir + " a directory of your own"}
		}
	}
	return nil
}

// checkOwner returns an error if a directory belongs to another user: root's files in it
// would lock that user out. sudo may keep a user's HOME.
func checkOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != os.Geteuid() {
		return &banger.Error{Why: fmt.Errorf("%s belongs to the user with the ID %d, and you have %d", dir, owner, os.Geteuid()),
			Fix: "run banger as that user, without sudo; or use directories of your own: sudo -H banger"}
	}
	return nil
}
