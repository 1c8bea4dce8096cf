package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"banger"
	"banger/internal/build/debian"
	"banger/internal/build/image"
	"banger/internal/config"
	"banger/internal/hostcmd"
)

//go:embed packages.apt
var packages []byte

// recipe counts the changes to how the disks are built.
const recipe = 1

// dataSize is the size of the disk for the host's VMs and for all that it writes.
const dataSize = 24 * banger.GiB

// disks are the files that the host boots from. It writes to none of them.
type disks struct {
	kernel                config.KernelDir
	image, data, programs string
}

// key returns a name for something that is built from these inputs.
func key(inputs ...[]byte) string {
	sum := sha256.New()
	fmt.Fprintln(sum, recipe, debian.Suite)
	for _, input := range inputs {
		fmt.Fprintln(sum, len(input))
		sum.Write(input)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:8])
}

// once creates the file dir/kind-key.ext4 unless it exists, and removes those of other
// keys.
func (l *Lab) once(kind, key string, make func(path string) error) (string, error) {
	path := filepath.Join(l.dir, kind+"-"+key+".ext4")
	others, err := filepath.Glob(filepath.Join(l.dir, kind+"-*"))
	if err != nil {
		return "", err
	}
	for _, other := range others {
		if other != path {
			if err := os.Remove(other); err != nil {
				return "", err
			}
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	l.say("build the lab host's %s disk", kind)
	stage := filepath.Join(l.dir, kind+"-new")
	if err := make(stage); err != nil {
		return "", fmt.Errorf("build the lab host's %s disk: %w", kind, errors.Join(err, os.RemoveAll(stage)))
	}
	return path, os.Rename(stage, path)
}

// buildImage builds the host's root file system.
func (l *Lab) buildImage(ctx context.Context) (string, error) {
	return l.once("image", key(packages), func(path string) error {
		list := filepath.Join(l.dir, "packages.apt")
		if err := os.WriteFile(list, packages, 0o600); err != nil {
			return err
		}
		log, err := os.Create(filepath.Join(l.dir, "image.log"))
		if err != nil {
			return err
		}
		defer log.Close()
		_, err = image.Build(ctx, l.Runner, image.Options{Packages: list, Out: path, WorkDir: l.dir, Log: log},
			func(step string) { l.say("  %s", step) })
		return err
	})
}

// buildData builds the disk that holds the runtime bundle and has space for VMs.
func (l *Lab) buildData(ctx context.Context) (string, error) {
	manifest, err := os.ReadFile(l.Bundle.Manifest())
	if err != nil {
		return "", err
	}
	tree, err := filepath.EvalSymlinks(string(l.Bundle))
	if err != nil {
		return "", err
	}
	return l.once("data", key(manifest), func(path string) error { return l.mke2fs(ctx, tree, path, dataSize) })
}

// mke2fs creates a sparse disk with a directory's content. It has no journal, since
// nothing on it outlives the host.
func (l *Lab) mke2fs(ctx context.Context, tree, path string, size banger.Size) error {
	program, err := l.Runner.Look("mke2fs")
	if err != nil {
		return err
	}
	_, err = l.Runner.Run(ctx, hostcmd.Cmd{Argv: []string{
		program, "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1,root_owner=0:0",
		"-d", tree, path, fmt.Sprintf("%dk", size/banger.KiB),
	}})
	return err
}

// writeFile writes a file into the directory of the run.
func (l *Lab) writeFile(name string, mode fs.FileMode, content io.Reader) (string, error) {
	path := filepath.Join(l.run, name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return "", err
	}
	defer file.Close()
	_, err = io.Copy(file, content)
	return path, err
}

func (l *Lab) writeText(name string, mode fs.FileMode, text []byte) (string, error) {
	return l.writeFile(name, mode, bytes.NewReader(text))
}
