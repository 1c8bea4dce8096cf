package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger"
	"banger/internal/hostcmd"
)

// release is a version of Firecracker, without its patch level.
type release struct{ major, minor int }

// oldest is the oldest release that the driver supports.
var oldest = release{1, 12}

// tellsOfBalloon is the first release whose balloon statistics work with kernels from 6.12
// on. Older ones log a line in each interval instead.
var tellsOfBalloon = release{1, 14}

// reportsFreePages is the first release whose guests return free pages by themselves.
var reportsFreePages = release{1, 14}

// limitsSerial is the first release that limits the output of the console.
var limitsSerial = release{1, 16}

// tellsMTU is the first release that tells the guest the size of its packets.
var tellsMTU = release{1, 16}

func (r release) atLeast(other release) bool {
	return r.major > other.major || r.major == other.major && r.minor >= other.minor
}

// binary is looked up in PATH.
const binary = "firecracker"

// installFix begins with the words that scripts/try.sh looks for.
const installFix = "make runtime-bundle, or put firecracker into PATH, or set firecracker_bin in config.toml"

// program is the Firecracker found on this host.
type program struct {
	path    string
	file    os.FileInfo
	version string
	release release
}

func (p program) same(path string, file os.FileInfo) bool {
	return p.path == path && os.SameFile(p.file, file) && p.file.ModTime().Equal(file.ModTime()) && p.file.Size() == file.Size()
}

// find returns the path of the program: the one that is configured, else the
// one in PATH, else the bundle's.
func (d *Driver) find() (string, error) {
	if d.places.Configured != "" {
		return d.look(d.places.Configured)
	}
	path, err := d.look(binary)
	if err == nil || d.places.Bundled == "" {
		return path, err
	}
	if _, missing := os.Stat(d.places.Bundled); errors.Is(missing, fs.ErrNotExist) {
		return "", err
	}
	return d.look(d.places.Bundled)
}

func (d *Driver) look(name string) (string, error) {
	path, err := d.run.Look(name)
	if err == nil {
		return filepath.Abs(path) // the VMM starts in another directory
	}
	if info, found := os.Stat(name); filepath.IsAbs(name) && found == nil && info.Mode().IsRegular() {
		return "", unready(fmt.Errorf("%s cannot be executed", name), "chmod +x "+name)
	}
	if name == binary {
		return "", unready(errors.New("Firecracker is not installed"), installFix)
	}
	return "", unready(fmt.Errorf("there is no Firecracker at %s", name), d.anotherFix(name))
}

// anotherFix returns the fix that makes the driver find another Firecracker than the one
// at path.
func (d *Driver) anotherFix(path string) string {
	switch {
	case d.places.Configured != "": // then nothing else is looked at
		return "correct firecracker_bin in config.toml, or remove it, then: banger daemon stop"
	case path == d.places.Bundled:
		return "make runtime-bundle"
	}
	if _, err := os.Stat(d.places.Bundled); err == nil { // it would do, were this one not before it
		return "firecracker_bin = \"" + d.places.Bundled + "\" in config.toml, then: banger daemon stop"
	}
	return "replace " + path + " by a newer one, or set firecracker_bin in config.toml"
}

func unready(why error, fix string) error {
	return &banger.Error{Kind: banger.Unready, Why: why, Fix: fix}
}

// inspect returns the version of the installed Firecracker. It runs Firecracker only if
// that has changed.
func (d *Driver) inspect(ctx context.Context) (program, error) {
	path, err := d.find()
	if err != nil {
		return program{}, err
	}
	file, err := os.Stat(path)
	if err != nil {
		return program{}, unready(fmt.Errorf("inspect Firecracker: %w", err), d.anotherFix(path))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last.file != nil && d.last.same(path, file) {
		return d.last, nil
	}
	p := program{path: path, file: file}
	out, err := d.run.Run(ctx, hostcmd.Cmd{Argv: []string{path, "--version"}})
	if err != nil {
		return program{}, &banger.Error{Kind: banger.Unready, What: "ask Firecracker for its version", Why: err, Fix: d.anotherFix(path)}
	}
	if p.version, p.release, err = parseVersion(string(out)); err != nil {
		return program{}, unready(fmt.Errorf("%s: %w", path, err), d.anotherFix(path))
	}
	if !p.release.atLeast(oldest) {
		return program{}, unready(fmt.Errorf("%s is Firecracker %s, and %d.%d is the oldest that works", path, p.version, oldest.major, oldest.minor), d.anotherFix(path))
	}
	d.last = p
	return p, nil
}

// parseVersion reads what --version prints: "Firecracker v1.12.1" and more lines.
func parseVersion(out string) (string, release, error) {
	line, _, _ := strings.Cut(out, "\n")
	version, found := strings.CutPrefix(strings.TrimSpace(line), "Firecracker v")
	var r release
	if _, err := fmt.Sscanf(version, "%d.%d", &r.major, &r.minor); !found || err != nil {
		return "", release{}, errors.New("unrecognised `--version` output")
	}
	return oneLine(version), r, nil
}
