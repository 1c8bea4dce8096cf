// Package cli is the program banger: its commands, what they print, and their
// exit codes. It keeps no state and knows VMs only through the services of the
// daemon, which it starts if it is not running.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"banger"
	"banger/internal/api"
	"banger/internal/config"
)

// Std is the part of the process that a command uses.
type Std struct {
	In                    io.Reader
	Out, Err              io.Writer
	InTTY, OutTTY, ErrTTY bool
	Getenv                func(string) string
	LookupEnv             func(string) (string, bool)
	Signals               <-chan os.Signal // that interrupt the command
}

// OS returns the Std of this process.
func OS() Std {
	signals := make(chan os.Signal, 4)
	notify(signals)
	tty := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	return Std{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTTY: tty(os.Stdin), OutTTY: tty(os.Stdout), ErrTTY: tty(os.Stderr),
		Getenv: os.Getenv, LookupEnv: os.LookupEnv, Signals: signals,
	}
}

// Main runs the command in args and returns its exit code.
func Main(ctx context.Context, std Std, args []string) int {
	a := &app{std: std, quit: os.Exit, replace: syscall.Exec, spawn: spawn}
	a.connect = a.dial
	return a.main(ctx, args)
}

// service is everything the daemon offers.
type service interface {
	banger.VMService
	banger.ImageService
	banger.BuildService
	banger.HostService
}

// start decides whether to start the daemon if it is not running.
type start bool

const (
	autoStart start = true
	noStart   start = false
)

// app is one run of the program.
type app struct {
	std     Std
	connect func(context.Context, start) (service, error)
	replace func(path string, argv, env []string) error // syscall.Exec outside of tests
	spawn   func(argv []string, signals <-chan os.Signal) (status int, err error)
	quit    func(code int)
	stop    *interrupts

	operation atomic.Value // string: what Ctrl-C does to the operation that runs; "" if none does

	json    bool
	lines   bool // each JSON value is one line
	verbose bool
	began   bool // the arguments are valid: an error from now on is not a usage error
}

func (a *app) main(ctx context.Context, args []string) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.stop = &interrupts{cancel: cancel, app: a}
	over := make(chan struct{})
	defer close(over)
	go a.stop.run(a.std.Signals, over)

	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(a.std.In)
	root.SetOut(a.std.Out)
	root.SetErr(a.std.Err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if status := exitStatus(0); errors.As(err, &status) {
		return int(status)
	}
	if !a.began {
		a.json = a.json || asksJSON(cmd, args)
		err = usageError(cmd, err)
	}
	a.report(err)
	code := ExitCode(err)
	if cmd.Annotations[ownFailure] != "" && code != exitInterrupted {
		return exitOwnFailure
	}
	return code
}

// asksJSON looks for the flag if parsing failed before it was reached.
func asksJSON(cmd *cobra.Command, args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return cmd.Flags().Lookup("json") != nil && slices.Contains(args, "--json")
}

func (a *app) dirs() (config.Dirs, error) { return config.DirsFrom(a.std.Getenv) }

func (a *app) config() (config.Config, error) {
	dirs, err := a.dirs()
	if err != nil {
		return config.Config{}, err
	}
	return config.Load(dirs, a.std.Getenv)
}

func (a *app) dial(ctx context.Context, mode start) (service, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	client, err := api.Connect(ctx, dirs, api.ConnectOptions{NoStart: mode == noStart, Waiting: a.waiting})
	if err != nil {
		return nil, err
	}
	return client, nil
}

// waiting tells a person that the daemon has not answered for a while.
func (a *app) waiting(pid int) {
	if !a.json {
		fmt.Fprintf(a.std.Err, "waiting for the daemon (pid %d), which does not answer yet\n", pid)
	}
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "banger",
		Short:         "Persistent Linux VMs for development",
		Long:          "banger creates and runs persistent Linux VMs. Each has its own disks and stays until you delete it.\nThe daemon that owns them starts when a command needs it.",
		Example:       "  banger vm create --name calm-otter\n  banger vm ssh calm-otter\n  banger doctor",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          group,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkDurations(cmd.Flags()); err != nil {
				return err
			}
			a.began = true
			return nil
		},
	}
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "print each step to stderr, even without a terminal")
	root.AddCommand(newVM(a), newDaemon(a), newImage(a), newKernel(a), newNetwork(a), newEvents(a), newDoctor(a), newVersion(a))
	for _, cmd := range append(root.Commands(), root) {
		if cmd.HasSubCommands() { // so that a wrong verb with --json gets its error as JSON
			a.addJSON(cmd)
			_ = cmd.Flags().MarkHidden("json")
		}
	}
	root.InitDefaultHelpCmd()
	addCompletion(root)
	return root
}

// group prints the help of a command with subcommands, or an error about a subcommand
// that does not exist.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2
	fix := cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		fix = cmd.CommandPath() + " " + near[0]
	}
	return banger.Invalidf(fix, "%s has no command %q", cmd.CommandPath(), args[0])
}

// addJSON gives cmd the flag --json.
func (a *app) addJSON(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON to stdout, errors included")
}
