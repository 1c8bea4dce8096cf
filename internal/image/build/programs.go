package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"banger"
	"banger/internal/guest/wire"
)

// Where the inputs are in the VM of a build: on /run, which no image has.
const (
	inputs     = "/run/banger-build"
	scriptFile = inputs + "/script"
	runtimeDir = inputs + "/runtime" // the script's BANGER_RUNTIME_DIR
	stateDir   = inputs + "/state"   // the script's BANGER_STATE_DIR
	secretsDir = "/run/secrets"
)

// receive writes its input to a file that only root can read.
const receive = `umask 077 && mkdir -p "${1%/*}" "$3" && cat >"$1" && chmod "$2" "$1"`

// send sends what the programs of the build read. Secrets are on no command line.
func (b *building) send(ctx context.Context) error {
	files := []struct{ path, mode, text string }{{runtimeDir + "/packages.apt", "0600", strings.Join(b.spec.Packages, "\n") + "\n"}}
	if b.spec.Script != "" {
		files = append(files, struct{ path, mode, text string }{scriptFile, "0700", b.spec.Script})
	}
	for _, name := range slices.Sorted(maps.Keys(b.spec.Secrets)) {
		files = append(files, struct{ path, mode, text string }{secretsDir + "/" + name, "0400", b.spec.Secrets[name]})
	}
	for _, file := range files {
		argv := []string{"/bin/sh", "-c", receive, "sh", file.path, file.mode, stateDir}
		if err := b.run(ctx, "send "+file.path, wire.Exec{Argv: bytesOf(argv)}, file.text); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program to its end. A status other than 0 is an error.
func (b *building) run(ctx context.Context, what string, program wire.Exec, in string) error {
	defer b.out.over()
	status, err := b.vm.exec(ctx, program, strings.NewReader(in), &b.out.out, &b.out.errs)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch status {
	case 0:
		return nil
	case wire.ExitNotFound, wire.ExitCannotRun:
		return &banger.Error{Kind: banger.Invalid, Why: fmt.Errorf("%s: the VM could not run %q: %w", what, program.Argv[0], errors.Unwrap(b.out.failed(what, status))),
			Fix: "read the output: " + b.out.path}
	}
	return b.out.failed(what, status)
}

func bytesOf(argv []string) [][]byte {
	list := make([][]byte, len(argv))
	for i, arg := range argv {
		list[i] = []byte(arg)
	}
	return list
}

// install installs packages by the package manager of the image. No question is asked.
const install = `if command -v apt-get >/dev/null; then
	apt-get -q update && exec apt-get -q -y -o Dpkg::Use-Pty=0 --no-install-recommends install -- "$@"
elif command -v apk >/dev/null; then exec apk add --no-progress --no-cache -- "$@"
elif command -v dnf >/dev/null; then exec dnf -y install -- "$@"
elif command -v pacman >/dev/null; then exec pacman -Sy --noconfirm --noprogressbar --needed -- "$@"
elif command -v zypper >/dev/null; then exec zypper --non-interactive install -- "$@"
fi
echo "the image has none of apt-get, apk, dnf, pacman and zypper" >&2
exit 1`

// installDocker installs Docker unless the image has it. Debian has split the package.
const installDocker = `command -v dockerd >/dev/null && command -v docker >/dev/null && exit
set -- docker
if command -v apt-get >/dev/null; then
	apt-get -q update || exit
	set -- docker.io iptables ca-certificates
	if apt-cache show docker-cli >/dev/null 2>&1; then set -- "$@" docker-cli; fi
elif command -v dnf >/dev/null; then
	set -- moby-engine
fi
`

// quiet keeps Debian's packages from asking questions.
var quiet = [][]byte{[]byte("DEBIAN_FRONTEND=noninteractive")}

func (b *building) installPackages(ctx context.Context) error {
	argv := append([]string{"/bin/sh", "-c", install, "sh"}, b.spec.Packages...)
	return b.run(ctx, "the installation of packages", wire.Exec{Argv: bytesOf(argv), Env: quiet}, "")
}

func (b *building) installDocker(ctx context.Context) error {
	argv := []string{"/bin/sh", "-c", installDocker + install}
	return b.run(ctx, "the installation of Docker", wire.Exec{Argv: bytesOf(argv), Env: quiet}, "")
}

// runScript runs the script as the kernel would, or by sh if it does not say by what.
func (b *building) runScript(ctx context.Context) error {
	argv := []string{scriptFile}
	if !strings.HasPrefix(b.spec.Script, "#!") {
		argv = []string{"/bin/sh", scriptFile}
	}
	env := append(slices.Clone(quiet), []byte("BANGER_RUNTIME_DIR="+runtimeDir), []byte("BANGER_STATE_DIR="+stateDir))
	return b.run(ctx, "the script", wire.Exec{Argv: bytesOf(argv), Env: append(env, bytesOf(b.spec.Args)...)}, "")
}
