// Command banger-bundle builds runtime bundles and packs them for other hosts.
// make runtime and make runtime-package run it; it is not installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/term"

	"banger"
	"banger/internal/build"
	"banger/internal/cli"
	"banger/internal/config"
	"banger/internal/hostcmd"
)

const usage = `usage: banger-bundle build   [--dir DIR] [--packages FILE] [--pins FILE] [--only kernel|image|firecracker] [--mirror URL] [--force] [--verify]
       banger-bundle package [--dir DIR] [--out FILE]
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout *os.File, stderr io.Writer) int {
	commands := map[string]func(context.Context, []string, *os.File, io.Writer) error{"build": runBuild, "package": runPackage}
	if len(args) == 0 || commands[args[0]] == nil {
		io.WriteString(stderr, usage)
		return cli.ExitCode(errUsage)
	}
	err := commands[args[0]](ctx, args[1:], stdout, stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return cli.ExitCode(errUsage)
	}
	fmt.Fprintf(stderr, "banger-bundle: %v\n", err)
	if fix := banger.FixOf(err); fix != "" {
		fmt.Fprintf(stderr, "fix: %s\n", fix)
	}
	return cli.ExitCode(err)
}

// errUsage is an error in the command line that has been printed already.
var errUsage = &banger.Error{Kind: banger.Invalid, What: "usage"}

func parse(flags *flag.FlagSet, args []string, stderr io.Writer) error {
	flags.SetOutput(stderr)
	flags.Usage = func() { io.WriteString(stderr, usage) }
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "unexpected arguments: %s\n%s", strings.Join(flags.Args(), " "), usage)
		return errUsage
	}
	return nil
}

func runBuild(ctx context.Context, args []string, stdout *os.File, stderr io.Writer) error {
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	dir := flags.String("dir", "runtime", "directory of the bundle")
	packages := flags.String("packages", "packages.apt", "list of the image's packages")
	only := flags.String("only", "", "build one part: kernel, image or firecracker")
	pins := flags.String("pins", "runtime-bundle.toml", "pinned downloads")
	mirror := flags.String("mirror", "", "URL of a mirror of Debian's archive")
	force := flags.Bool("force", false, "rebuild what is up to date")
	verify := flags.Bool("verify", false, "read every byte instead of trusting times and sizes")
	if err := parse(flags, args, stderr); err != nil {
		return err
	}
	dirs, err := config.DirsFrom(os.Getenv)
	if err != nil {
		return err
	}
	return build.Build(ctx, hostcmd.Host{}, build.Options{
		Dir: config.BundleDir(*dir), Packages: *packages, Pins: *pins, Cache: dirs.Cache, Mirror: *mirror, Only: build.Part(*only),
		Force: *force, Verify: *verify, Out: stdout, Terminal: term.IsTerminal(int(stdout.Fd())),
	})
}

func runPackage(ctx context.Context, args []string, stdout *os.File, stderr io.Writer) error {
	flags := flag.NewFlagSet("package", flag.ContinueOnError)
	dir := flags.String("dir", "runtime", "directory of the bundle")
	out := flags.String("out", filepath.Join("dist", "banger-runtime.tar.gz"), "archive to write")
	if err := parse(flags, args, stderr); err != nil {
		return err
	}
	digest, err := build.Pack(ctx, config.BundleDir(*dir), *out)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s  %s\n", strings.TrimPrefix(string(digest), "sha256:"), *out)
	return nil
}
