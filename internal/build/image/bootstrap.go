package image

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"banger"
	"banger/internal/build/debian"
	"banger/internal/hostcmd"
	"banger/internal/subid"
)

const installTools = "sudo apt install mmdebstrap uidmap"

// Ready returns nil if this host can build the default image, else an Unready error
// with what to install.
func Ready(runner hostcmd.Runner) error {
	tools := []string{"mmdebstrap"}
	if os.Getuid() != 0 {
		tools = append(tools, "newuidmap", "newgidmap")
	}
	for _, tool := range tools {
		if _, err := runner.Look(tool); err != nil {
			return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("the command %s is not installed", tool), Fix: installTools}
		}
	}
	if os.Getuid() == 0 {
		return nil
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	return subid.Check("/", me.Username, os.Getuid())
}

// bootstrap installs the packages with mmdebstrap and writes the tree to out, as a tar
// archive. It works in a directory that root of a user namespace can enter, which a
// user's home often is not.
func bootstrap(ctx context.Context, runner hostcmd.Runner, opts Options, packages []string, out io.Writer, progress func(string)) (err error) {
	scratch, err := os.MkdirTemp(cmp.Or(os.Getenv("TMPDIR"), "/var/tmp"), "banger-image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sweep(ctx, runner, scratch)) }()
	if err := os.Chmod(scratch, 0o711); err != nil {
		return err
	}
	keyring, err := keys(scratch, opts.Keyring)
	if err != nil {
		return err
	}
	log := cmp.Or(opts.Log, io.Discard)
	steps := &stepWriter{progress: progress}
	_, err = runner.Run(ctx, hostcmd.Cmd{
		Argv:   argv(packages),
		Env:    append(os.Environ(), "TMPDIR="+scratch, "LC_ALL=C.UTF-8"),
		Stdin:  strings.NewReader(debian.Sources(opts.Mirror, keyring)),
		Stdout: out,
		Stderr: io.MultiWriter(log, steps),
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &banger.Error{Kind: banger.Canceled, What: "install packages", Why: ctx.Err()}
	case len(steps.errors) == 0:
		return err
	}
	return explain(steps.errors)
}

// explain returns an error with a fix for the failures that the user can mend.
func explain(said []string) error {
	e := &banger.Error{What: "install packages", Why: errors.New(strings.Join(said, "; "))}
	for _, line := range said {
		switch {
		case strings.Contains(line, "Unable to locate package"), strings.Contains(line, "has no installation candidate"):
			e.Kind, e.Fix = banger.Invalid, "correct the name in the list of packages; all names are at https://packages.debian.org/"+debian.Suite
		case strings.Contains(line, "Failed to fetch"):
			e.Kind, e.Fix = banger.Unready, "check the connection to Debian's mirror, then run the command again"
		case strings.Contains(line, "is not signed"):
			e.Kind, e.Fix = banger.Unready, "use a mirror of Debian's own archive, or give the keyring of your mirror"
		}
	}
	return e
}

// argv returns the command line of mmdebstrap. Root does not use subordinate ids, since
// not every mmdebstrap finds root's.
func argv(packages []string) []string {
	mode := "unshare"
	if os.Getuid() == 0 {
		mode = "root"
	}
	return []string{
		"mmdebstrap", "--mode=" + mode, "--variant=minbase", "--format=tar", "--verbose",
		"--architectures=" + debian.Arch,
		"--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		`--aptopt=Acquire::Languages "none"`,
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-include=/usr/share/doc/*/copyright",
		debian.Suite, "-", "-",
	}
}

// keys writes the keyring where apt, which may run as another user, can read it.
func keys(dir, from string) (string, error) {
	if from == "" {
		return debian.WriteKeyring(dir)
	}
	ring, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "keyring"+filepath.Ext(from))
	if err := os.WriteFile(path, ring, 0o644); err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o644)
}

// sweep removes the scratch directory. Files that an interrupted mmdebstrap leaves
// belong to users of its namespace, and can only be removed in such a namespace.
func sweep(ctx context.Context, runner hostcmd.Runner, dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	argv := append([]string{"mmdebstrap", "--unshare-helper", "rm", "-rf", "--one-file-system", "--"}, left...)
	if _, err := runner.Run(context.WithoutCancel(ctx), hostcmd.Cmd{Argv: argv}); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}

// stepWriter reads what mmdebstrap and apt print: it reports progress and keeps their
// error lines, since the last lines of the output hold only mmdebstrap's own command.
type stepWriter struct {
	progress func(string)
	errors   []string
	rest     []byte
}

const maxLine = 64 << 10 // a longer line is not about a step

func (w *stepWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			break
		}
		w.line(string(line))
		w.rest = rest
	}
	if len(w.rest) > maxLine {
		w.rest = nil
	}
	return len(p), nil
}

func (w *stepWriter) line(line string) {
	if step := stepOf(line); step != "" {
		w.progress(step)
	}
	said, ok := strings.CutPrefix(line, "E: ")
	const enough = 5
	if ok && len(w.errors) < enough && !strings.Contains(said, "APT::Status-Fd") && !strings.HasPrefix(said, "mmdebstrap failed") {
		w.errors = append(w.errors, said)
	}
}

// stepOf returns the step that a line announces, or "".
func stepOf(line string) string {
	var upgraded, installed int
	if n, _ := fmt.Sscanf(line, "%d upgraded, %d newly installed,", &upgraded, &installed); n == 2 && installed > 0 {
		return fmt.Sprintf("install %d packages", installed)
	}
	switch {
	case strings.HasPrefix(line, "I: running apt-get update"):
		return "read Debian's package lists"
	case strings.HasPrefix(line, "I: creating tarball"):
		return "pack the installed tree"
	}
	return ""
}
