package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
	flags.BoolVar(&o.noStdin, "no-stdin", false, "let the program read nothing; otherwise it reads stdin")
	flags.StringVarP(&o.user, "user", "u", "", "user in the VM (default: root)")
	flags.StringVarP(&o.workdir, "workdir", "w", "", "directory to run in (default: the user's home)")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "set NAME=value, or pass NAME on from here; may be repeated")
	flags.BoolP("interactive", "i", true, "read stdin, which is so anyway")
	_ = flags.MarkHidden("interactive")
}

func newExec(a *app) *cobra.Command {
	var opts execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] NAME -- PROGRAM [ARGUMENT...]",
		Short: "Run a program in a running VM",
		Long: "Run a program in a running VM. Its arguments arrive byte for byte, with no shell in between.\n" +
			"stdin is piped to it, signals are handed on, and its exit status becomes banger's;\n125 means that banger itself failed.",
		Example: "  banger vm exec calm-otter -- uname -a\n  banger vm exec -t calm-otter -- top\n" +
			"  banger vm exec --user nobody --workdir /tmp --env LANG=C calm-otter -- ls -l 'a file'",
		Args:              cobra.MinimumNArgs(2),
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
	return a.execIn(ctx, svc, vm, program, opts)
}

// program checks what can be checked here and describes what to run.
func (a *app) program(argv []string, opts execOptions) (wire.Exec, error) {
	if len(argv) == 0 {
		return wire.Exec{}, banger.Invalidf("banger vm exec NAME -- uname -a", "no program is named")
	}
	if opts.tty && !a.std.InTTY {
		return wire.Exec{}, banger.Invalidf("leave -t out", "-t needs a terminal, and stdin is none")
	}
	if opts.tty && !a.std.OutTTY {
		return wire.Exec{}, banger.Invalidf("leave -t out", "-t needs a terminal, and stdout is none")
	}
	program := wire.Exec{Argv: bytesOf(argv), User: opts.user}
	if opts.workdir != "" {
		program.Workdir = []byte(opts.workdir)
	}
	for _, entry := range opts.env {
		name, _, given := strings.Cut(entry, "=")
		if name == "" {
			return wire.Exec{}, banger.Invalidf("write --env NAME=value", "%q names no variable", entry)
		}
		if !given {
			entry += "=" + a.std.Getenv(name)
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

// execIn runs program in vm and returns its status as an exitStatus. Signals
// are the program's as long as it runs.
func (a *app) execIn(ctx context.Context, svc service, vm banger.VM, program wire.Exec, opts execOptions) error {
	conn, err := svc.DialVM(ctx, vm.Name, wire.PortSSH)
	if err != nil {
		return err
	}
	defer conn.Close()
	session := guest.Session{Stdout: a.std.Out, Stderr: a.std.Err}
	if !opts.noStdin {
		session.Stdin = a.std.In
	}
	if opts.tty {
		tty, restore, err := a.openTTY()
		if err != nil {
			return err
		}
		defer restore()
		session.TTY = tty
	}
	signals, give := a.stop.take()
	defer give()
	session.Signals = signals
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

// openTTY makes this terminal hand every key on, and follows its size. restore
// makes it as it was.
func (a *app) openTTY() (tty *guest.TTY, restore func(), err error) {
	file, ok := a.std.In.(*os.File)
	if !ok {
		return nil, nil, banger.Invalidf("leave -t out", "-t needs a terminal, and stdin is none")
	}
	fd := int(file.Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, nil, fmt.Errorf("set up the terminal: %w", err)
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	ended := make(chan struct{})
	resize := make(chan guest.Size)
	go followSize(fd, changed, resize, ended)
	name := a.std.Getenv("TERM")
	if name == "" {
		name = "xterm"
	}
	tty = &guest.TTY{Term: name, Size: sizeOf(fd), Resize: resize}
	return tty, func() {
		signal.Stop(changed)
		close(ended)
		_ = term.Restore(fd, old)
	}, nil
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
	cols, rows, err := term.GetSize(fd)
	if err != nil {
		return guest.Size{Cols: 80, Rows: 24}
	}
	return guest.Size{Cols: cols, Rows: rows}
}
