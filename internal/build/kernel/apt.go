package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"banger"
	"banger/internal/build/debian"
	"banger/internal/hostcmd"
)

// metaPackage depends on the release's newest kernel package for VMs.
const metaPackage = "linux-image-cloud-" + debian.Arch

var kernelPackage = regexp.MustCompile(`\blinux-image-([0-9][A-Za-z0-9.+~-]*)`)

// apt runs the host's apt with its own sources, keys, state and cache, which are below
// dir. It needs no root.
type apt struct {
	runner hostcmd.Runner
	dir    string
	log    io.Writer
}

// setUp writes apt's own configuration and sources.
func (a apt) setUp(ctx context.Context, mirror, keyring string) error {
	if strings.ContainsAny(a.dir, "\"\n") {
		return fmt.Errorf("set up apt: the path %q has a quote", a.dir)
	}
	for _, dir := range []string{"etc/apt.conf.d", "etc/preferences.d", "state/lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return fmt.Errorf("set up apt: %w", err)
		}
	}
	files := map[string]string{
		"sources.list": debian.Sources(mirror, keyring),
		"status":       "", // no installed packages
		"apt.conf":     a.config(ctx),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("set up apt: %w", err)
		}
	}
	return nil
}

// config returns the text of apt.conf. Without Sandbox::User, apt run by root would
// change to a user who cannot enter root's cache directory. Without Error-Mode, an index
// that cannot be reached would not be an error.
func (a apt) config(ctx context.Context) string {
	return fmt.Sprintf(`Dir "%[1]s";
Dir::Etc "etc";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::trusted "/nonexistent";
Dir::Etc::trustedparts "/nonexistent";
Dir::State "state";
Dir::State::status "%[1]s/status";
Dir::Cache "cache";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
`, a.dir, debian.Arch) + a.hostTransport(ctx)
}

// hostTransport returns how the host's own configuration reaches servers, such as its
// proxies.
func (a apt) hostTransport(ctx context.Context) string {
	dump, err := a.runner.Run(ctx, hostcmd.Cmd{Argv: []string{"apt-config", "dump"}})
	if err != nil { // without apt-config there is no such configuration
		return ""
	}
	var kept strings.Builder
	for line := range strings.Lines(string(dump)) {
		if strings.HasPrefix(line, "Acquire::http") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// run runs a program of apt in a directory below a.dir.
func (a apt) run(ctx context.Context, dir string, stdout io.Writer, argv ...string) ([]byte, error) {
	env := append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return a.runner.Run(ctx, hostcmd.Cmd{Argv: argv, Dir: filepath.Join(a.dir, dir), Env: env, Stdout: stdout, Stderr: a.log})
}

// update fetches the archive's indexes and checks their signatures.
func (a apt) update(ctx context.Context) error {
	if _, err := a.run(ctx, ".", a.log, "apt-get", "-q", "update"); err != nil {
		return unreachable(ctx, "fetch Debian's package indexes", err)
	}
	return nil
}

// newest returns the kernel package that metaPackage depends on.
func (a apt) newest(ctx context.Context) (name string, err error) {
	shown, err := a.run(ctx, ".", nil, "apt-cache", "show", "--no-all-versions", metaPackage)
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", metaPackage, err)
	}
	for line := range strings.Lines(string(shown)) {
		if depends, ok := strings.CutPrefix(line, "Depends:"); ok {
			if found := kernelPackage.FindString(depends); found != "" {
				return found, nil
			}
		}
	}
	return "", fmt.Errorf("look up %s: it does not depend on a kernel", metaPackage)
}

// deb is a downloaded package.
type deb struct {
	path   string
	sha256 string
}

// name returns the file's name in the archive, which contains the version.
func (d deb) name() string { return filepath.Base(d.path) }

// download returns the package's file and removes those of other packages. It keeps the
// file of an earlier run if its content is what the archive's signed index says.
func (a apt) download(ctx context.Context, name string) (deb, error) {
	// Not in the file's directory: apt prints nothing about a file that exists.
	said, err := a.run(ctx, ".", nil, "apt-get", "-q", "download", "--print-uris", name)
	if err != nil {
		return deb{}, fmt.Errorf("look up %s: %w", name, err)
	}
	found, err := parseURI(string(said))
	if err != nil {
		return deb{}, fmt.Errorf("look up %s: %w", name, err)
	}
	found.path = filepath.Join(a.dir, "debs", found.path)
	if err := a.forgetOthers(found.name()); err != nil {
		return deb{}, err
	}
	if found.check() == nil {
		return found, nil
	}
	if _, err := a.run(ctx, "debs", a.log, "apt-get", "-q", "download", name); err != nil {
		return deb{}, unreachable(ctx, "download "+name, err)
	}
	if err := found.check(); err != nil {
		return deb{}, fmt.Errorf("check %s: %w", name, err)
	}
	return found, nil
}

func (a apt) forgetOthers(keep string) error {
	paths, err := filepath.Glob(filepath.Join(a.dir, "debs", "*.deb"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if filepath.Base(path) != keep {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("remove an old package: %w", err)
			}
		}
	}
	return nil
}

// parseURI reads apt's line 'URI' FILE SIZE SHA256:HEX.
func parseURI(text string) (deb, error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 4 || !strings.HasPrefix(fields[0], "'") {
			continue
		}
		sum, ok := strings.CutPrefix(fields[3], "SHA256:")
		if !ok || len(sum) != sha256.Size*2 || !filepath.IsLocal(fields[1]) || filepath.Base(fields[1]) != fields[1] {
			continue
		}
		return deb{path: fields[1], sha256: sum}, nil
	}
	return deb{}, errors.New("apt printed no file with a SHA-256")
}

func (d deb) check() error {
	file, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != d.sha256 {
		return fmt.Errorf("%s has the SHA-256 %s; the archive says %s", d.path, got, d.sha256)
	}
	return nil
}

// unreachable returns the error of a failed download, with a fix. A bad signature has no
// such fix.
func unreachable(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	failed := &banger.Error{Kind: banger.Unready, What: what, Why: err, Fix: "check the connection to Debian's mirror, or give another one with --mirror URL"}
	if run := (*hostcmd.Error)(nil); errors.As(err, &run) {
		for _, sign := range []string{"NO_PUBKEY", "BADSIG", "not signed", "Hash Sum mismatch"} {
			if bytes.Contains([]byte(run.Stderr), []byte(sign)) {
				failed.Kind, failed.Fix = banger.Unknown, ""
			}
		}
	}
	return failed
}
