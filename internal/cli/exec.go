package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
)

type execOptions struct {
	tty     bool
	noStdin bool
	user    string
	workdir string
	env     []string
}

func (o *execOptions) addFlags(flags *pflag.FlagSet) {
	flags.BoolVarP(&o.tty, "tty", "t", false, "give the program a terminal")
	flags.BoolVar(&o.noStdin, "no-stdin", false, "give the program an empty stdin, as it needs inside a 'while read' loop")
	flags.StringVarP(&o.user, "user", "u", "", "user in the VM (default root)")
	flags.StringVarP(&o.workdir, "workdir", "w", "", "directory to run in (default: the user's home)")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "set NAME=value, or pass on NAME from this environment; may be repeated")
	flags.BoolP("interactive", "i", true, "read stdin (the default)")
	_ = flags.MarkHidden("interactive")
}

func newExec(a *app) *cobra.Command {
	var opts execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] NAME -- PROGRAM [ARGUMENT...]",
		Short: "Run a program in a running VM",
		Long: "Run a program in a running VM. Its arguments arrive byte for byte, without a shell.\n" +
			"Flags after NAME belong to the program. It reads stdin and gets the signals that banger gets, and\n" +
			"banger exits with its exit status, or 128 plus the number of the signal that ended it; 125 means\n" +
			"that banger itself failed. A third Ctrl-C always ends it, even if the VM hangs.\n" +
			"It ends with its program. What the program left in the background continues without it, and without\n" +
			"its output. If banger ends first, the program is hung up, with everything in its process group.",
		Example: "  banger vm exec calm-otter -- uname -a\n  banger vm exec -t calm-otter -- top\n" +
			"  banger vm exec --user nobody --workdir /tmp --env LANG=C calm-otter -- ls -l 'a file'",
		Args:              args(2, anyNumber),
		ValidArgsFunction: a.firstVM,
		Annotations:       map[string]string{ownFailure: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runExec(cmd.Context(), args[0], afterDashes(args[1:]), opts)
		},
	}
	cmd.Flags().SetInterspersed(false)
	opts.addFlags(cmd.Flags())
	return cmd
}

func (a *app) runExec(ctx context.Context, ref string, argv []string, opts execOptions) error {
	program, err := a.program(argv, opts)
	if err != nil {
		return err
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	vm, err := svc.ShowVM(ctx, ref)
	if err != nil {
		return err
	}
	err = a.execIn(ctx, svc, vm, program, opts)
	a.tellEarly(vm, err)
	return err
}

// tellEarly says what may be why a program failed in a VM that was not up yet: Docker, for
// example, says only that it cannot be reached.
func (a *app) tellEarly(vm banger.VM, err error) {
	if status := exitStatus(0); vm.State == banger.Booting && errors.As(err, &status) {
		fmt.Fprintf(a.std.Err, "note: services of %s were still starting; this waits for them: banger vm wait %s\n", vm.Name, vm.Name)
	}
}

// program describes what to run. It returns an error for what can be checked here.
func (a *app) program(argv []string, opts execOptions) (wire.Exec, error) {
	if len(argv) == 0 {
		return wire.Exec{}, banger.Invalidf("banger vm exec NAME -- uname -a", "which program?")
	}
	if opts.tty && !a.std.InTTY {
		return wire.Exec{}, banger.Invalidf("leave out -t", "-t needs a terminal, but stdin is not one")
	}
	if opts.tty && !a.std.OutTTY {
		return wire.Exec{}, banger.Invalidf("leave out -t", "-t needs a terminal, but stdout is not one")
	}
	program := wire.Exec{Argv: bytesOf(argv), User: opts.user}
	if opts.workdir != "" {
		program.Workdir = []byte(opts.workdir)
	}
	for _, entry := range opts.env {
		name, _, given := strings.Cut(entry, "=")
		if name == "" {
			return wire.Exec{}, banger.Invalidf("write --env NAME=value", "%q has no variable name", entry)
		}
		if !given {
			value, set := a.std.LookupEnv(name)
			if !set {
				continue // it is not set there either
			}
			entry += "=" + value
		}
		program.Env = append(program.Env, []byte(entry))
	}
	return program, nil
}

func bytesOf(args []string) [][]byte {
	list := make([][]byte, len(args))
	for i, arg := range args {
		list[i] = []byte(arg)
	}
	return list
}

// execIn runs program in vm and returns its status as an exitStatus. While the
// program runs, it gets the signals and the keys of the terminal; before that, they
// interrupt banger.
func (a *app) execIn(ctx context.Context, svc service, vm banger.VM, program wire.Exec, opts execOptions) error {
	conn, err := svc.DialVM(ctx, string(vm.ID), wire.PortSSH)
	if err != nil {
		return err
	}
	defer conn.Close()
	signals := make(chan os.Signal, 4)
	defer a.stop.handTo(nil)
	defer signal.Stop(signals)
	turn := a.newTurn()
	defer turn.over()
	started := func() error {
		turn.over()
		a.stop.handTo(signals)
		listen(signals, passed)
		return nil
	}
	session := guest.Session{Stdout: a.std.Out, Stderr: a.std.Err, Signals: signals, Started: started, Waiting: turn.waiting}
	if !opts.noStdin {
		session.Stdin = a.std.In
	}
	if opts.tty {
		tty, err := a.openTTY()
		if err != nil {
			return err
		}
		defer tty.restore()
		session.TTY = &tty.TTY
		session.Started = func() error { return errors.Join(started(), tty.makeRaw()) }
	}
	status, err := guest.Exec(ctx, conn, vm, program, session)
	if err != nil {
		return &banger.Error{What: fmt.Sprintf("exec in VM %q", vm.Name), Why: err,
			Fix: "banger vm show " + vm.Name}
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

// terminal is banger's own terminal, lent to a program in a VM.
type terminal struct {
	guest.TTY
	fd      int
	before  *term.State // to restore; nil if it is not changed
	changed chan os.Signal
	ended   chan struct{}
}

// openTTY describes this terminal, and follows its size until restore is called.
func (a *app) openTTY() (*terminal, error) {
	file, ok := a.std.In.(*os.File)
	if !ok {
		return nil, banger.Invalidf("leave out -t", "-t needs a terminal, but stdin is not one")
	}
	t := &terminal{fd: int(file.Fd()), changed: make(chan os.Signal, 1), ended: make(chan struct{})}
	signal.Notify(t.changed, syscall.SIGWINCH)
	resize := make(chan guest.Size)
	go followSize(t.fd, t.changed, resize, t.ended)
	t.TTY = guest.TTY{Term: cmp.Or(a.std.Getenv("TERM"), "xterm"), Size: sizeOf(t.fd), Resize: resize}
	if modes, err := unix.IoctlGetTermios(t.fd, unix.TCGETS); err == nil {
		t.Modes = wire.TerminalModes(modes)
	}
	return t, nil
}

// makeRaw makes the terminal pass on every key.
func (t *terminal) makeRaw() (err error) {
	if t.before, err = term.MakeRaw(t.fd); err != nil {
		return fmt.Errorf("set up the terminal: %w", err)
	}
	return nil
}

func (t *terminal) restore() {
	signal.Stop(t.changed)
	close(t.ended)
	if t.before != nil {
		_ = term.Restore(t.fd, t.before)
	}
}

func followSize(fd int, changed <-chan os.Signal, resize chan<- guest.Size, ended <-chan struct{}) {
	for {
		select {
		case <-changed:
			select {
			case resize <- sizeOf(fd):
			case <-ended:
				return
			}
		case <-ended:
			return
		}
	}
}

func sizeOf(fd int) guest.Size {
	size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return guest.Size{Cols: 80, Rows: 24}
	}
	return guest.Size{Cols: int(size.Col), Rows: int(size.Row), Width: int(size.Xpixel), Height: int(size.Ypixel)}
}
