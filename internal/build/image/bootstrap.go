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
	steps := &stepWriter{progress: progress, done: opts.Done}
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
	argv := []string{
		"mmdebstrap", "--mode=" + mode, "--variant=minbase", "--format=tar", "--verbose",
		"--architectures=" + debian.Arch,
		"--include=" + strings.Join(packages, ","),
		`--aptopt=APT::Install-Recommends "false"`,
		`--aptopt=Acquire::Languages "none"`,
		// At each package man-db would index all pages: man finds them without.
		`--essential-hook=echo man-db man-db/auto-update boolean false | chroot "$1" debconf-set-selections`,
	}
	for _, files := range leftOut {
		argv = append(argv, "--dpkgopt=path-exclude="+files)
	}
	return append(argv, "--dpkgopt=path-include=/usr/share/doc/*/copyright", debian.Suite, "-", "-")
}

// leftOut are files of packages that the image does without: documents and manual pages
// in other languages, libraries for static sanitizers, and programs that test containerd.
var leftOut = []string{
	"/usr/share/doc/*",
	"/usr/share/locale/*",
	"/usr/share/man/??/*", "/usr/share/man/???/*", "/usr/share/man/??_*", "/usr/share/man/??@*", "/usr/share/man/??.*",
	"/usr/share/vim/vim*/lang/*",
	"/usr/lib/gcc/*/lib?san.a", "/usr/lib/gcc/*/libhwasan.a",
	"/usr/bin/containerd-stress",
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
	done     func(percent int) // may be nil
	packages int               // to install in this step
	actions  int               // done for them
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
	if step, packages := stepOf(line); step != "" {
		w.packages, w.actions = packages, 0
		w.progress(step)
	}
	w.count(line)
	said, ok := strings.CutPrefix(line, "E: ")
	const enough = 5
	if ok && len(w.errors) < enough && !strings.Contains(said, "APT::Status-Fd") && !strings.HasPrefix(said, "mmdebstrap failed") {
		w.errors = append(w.errors, said)
	}
}

// count counts what is done for each package: it is fetched, unpacked and set up.
func (w *stepWriter) count(line string) {
	const perPackage = 3
	if w.packages == 0 || w.done == nil {
		return
	}
	for _, action := range []string{"Get:", "Unpacking ", "Setting up "} {
		if strings.HasPrefix(line, action) {
			w.actions++
			w.done(min(99, w.actions*100/(perPackage*w.packages)))
			return
		}
	}
}

// stepOf returns the step that a line announces, or "", and how many packages it is
// about.
func stepOf(line string) (string, int) {
	var upgraded, installed int
	if n, _ := fmt.Sscanf(line, "%d upgraded, %d newly installed,", &upgraded, &installed); n == 2 && installed > 0 {
		return fmt.Sprintf("install %d packages", installed), installed
	}
	switch {
	case strings.HasPrefix(line, "I: running apt-get update"):
		return "read Debian's package lists", 0
	case strings.HasPrefix(line, "I: creating tarball"):
		return "pack the installed tree", 0
	}
	return "", 0
}
