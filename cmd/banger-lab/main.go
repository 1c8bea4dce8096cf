// Command banger-lab runs banger's tests on real Firecracker in the lab host. make lab,
// lab-short and lab-shell run it; it is not installed.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger"
	"banger/internal/cli"
	"banger/internal/config"
	"banger/internal/hostcmd"
	"banger/internal/lab/host"
)

const usage = `usage: banger-lab build
       banger-lab shell
       banger-lab bench [--run REGEX]
       banger-lab compare [--rounds N] [RIVAL...]
       banger-lab test [--short] [--suite driver|qemu|machines|root] [--run REGEX]
`

// errUsage is an error in the command line; the usage has been printed.
var errUsage = &banger.Error{Kind: banger.Invalid, What: "usage"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The reader of our output can die of the same Ctrl-C before the host has ended.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(ctx, os.Args[1:]))
}

// choice is the parsed command line.
type choice struct {
	short, verbose bool
	suite, tests   string
	rounds         int
	rivals         []string
}

func run(ctx context.Context, args []string) int {
	commands := map[string]func(context.Context, *host.Lab, choice) error{"build": runBuild, "shell": runShell, "bench": runBench, "compare": runCompare, "test": runTest}
	if len(args) == 0 || commands[args[0]] == nil {
		io.WriteString(os.Stderr, usage)
		return cli.ExitCode(errUsage)
	}
	var c choice
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.Usage = func() { io.WriteString(os.Stderr, usage) }
	flags.BoolVar(&c.short, "short", false, "run only the short part")
	flags.BoolVar(&c.verbose, "v", true, "as in go test; always on")
	flags.StringVar(&c.suite, "suite", "", "run only this suite")
	flags.StringVar(&c.tests, "run", "", "run only these tests or benchmarks")
	flags.IntVar(&c.rounds, "rounds", 4, "compare so many times")
	if err := flags.Parse(args[1:]); err != nil {
		return cli.ExitCode(errUsage)
	}
	c.rivals = flags.Args()
	err := inLab(ctx, func(l *host.Lab) error { return commands[args[0]](ctx, l, c) })
	if ctx.Err() != nil {
		err = &banger.Error{Kind: banger.Canceled, Why: ctx.Err()}
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "banger-lab: %v\n", err)
	if fix := banger.FixOf(err); fix != "" {
		fmt.Fprintf(os.Stderr, "fix: %s\n", fix)
	}
	return cli.ExitCode(err)
}

func inLab(ctx context.Context, do func(*host.Lab) error) (err error) {
	dirs, err := config.DirsFrom(os.Getenv)
	if err != nil {
		return err
	}
	l := &host.Lab{Runner: hostcmd.Host{}, Bundle: "runtime", Out: os.Stdout}
	if err := l.Open(dirs); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return do(l)
}

func runBuild(ctx context.Context, l *host.Lab, _ choice) error { return l.Build(ctx) }

// start boots the host with the programs, the tests of the suites and these directories
// of the checkout, and prints what host it is.
func start(ctx context.Context, l *host.Lab, suites []host.Suite, trees ...string) (*host.Host, error) {
	programs, err := l.Programs(ctx, ".", suites)
	if err != nil {
		return nil, err
	}
	for _, tree := range trees {
		if err := os.CopyFS(filepath.Join(programs, tree), os.DirFS(tree)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	began := time.Now()
	h, err := l.Boot(ctx, programs)
	if err != nil {
		return nil, err
	}
	fmt.Printf("the lab host is ready after %.0f s; its console is %s\n", time.Since(began).Seconds(), l.Console())
	about := `uname -r; firecracker --version | head -n 1; grep -o -m 1 -w svm /proc/cpuinfo; ls -l /dev/kvm; id`
	if status, err := h.Shell(ctx, host.User, about, os.Stdout); err != nil || status != 0 {
		return nil, errors.Join(fmt.Errorf("inspect the lab host: exit status %d", status), err, h.Close())
	}
	return h, nil
}

func runShell(ctx context.Context, l *host.Lab, _ choice) error {
	h, err := start(ctx, l, host.Suites)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.Terminal(ctx, os.Stdin, os.Stdout)
}

// runBench runs the benchmarks that compare banger with Firecracker alone.
func runBench(ctx context.Context, l *host.Lab, c choice) error {
	machines := host.Suites[slices.IndexFunc(host.Suites, func(s host.Suite) bool { return s.Name == "machines" })]
	h, err := start(ctx, l, []host.Suite{machines})
	if err != nil {
		return err
	}
	defer h.Close()
	passed, err := h.Bench(ctx, machines, cmp.Or(c.tests, "CreateExec$"), os.Stdout)
	if err == nil && !passed {
		err = errors.New("benchmarks failed")
	}
	return err
}

// runCompare runs scripts/compare in the host, with what dist/rivals holds.
func runCompare(ctx context.Context, l *host.Lab, c choice) error {
	h, err := start(ctx, l, nil, "scripts/compare", "dist/rivals")
	if err != nil {
		return err
	}
	defer h.Close()
	passed, err := h.Compare(ctx, c.rounds, c.rivals, os.Stdout)
	if err == nil && !passed {
		err = errors.New("the comparison failed")
	}
	return err
}

func runTest(ctx context.Context, l *host.Lab, c choice) error {
	var suites []host.Suite
	var names []string
	for _, suite := range host.Suites {
		names = append(names, suite.Name)
		if c.suite == "" || c.suite == suite.Name {
			suites = append(suites, suite)
		}
	}
	if len(suites) == 0 {
		return banger.Invalidf("use one of "+strings.Join(names, ", "), "there is no suite %q", c.suite)
	}
	h, err := start(ctx, l, suites)
	if err != nil {
		return err
	}
	defer h.Close()
	log, err := os.Create(filepath.Join(l.Run(), "tests.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	out := io.MultiWriter(os.Stdout, log)
	failed := false
	for _, suite := range suites {
		tests := suite.Tests
		if c.short {
			tests = suite.Short
		}
		began := time.Now()
		passed, err := h.Test(ctx, suite, cmp.Or(c.tests, tests), out)
		if err != nil {
			return errors.Join(fmt.Errorf("run the suite %s: %w", suite.Name, err), l.KeepLogs(ctx, h))
		}
		fmt.Fprintf(out, "%s: %.0f s\n", suite.Name, time.Since(began).Seconds())
		failed = failed || !passed
	}
	if failed {
		return errors.Join(errors.New("tests failed"), l.KeepLogs(ctx, h))
	}
	return nil
}
