// Package image builds the default image of a runtime bundle from Debian's
// packages, without root. It owns what that image contains besides them. It does
// not know the daemon's images, which are internal/image's.
package image

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/hostcmd"
	"banger/internal/rootfs"
)

// Options tell Build what to build from and where to write it.
type Options struct {
	Packages string            // path of the list of packages, packages.apt
	Out      string            // path of the image
	WorkDir  string            // for a temporary archive about as large as the image; empty: Out's directory
	Keyring  string            // the keys of the mirror; empty: the embedded ones
	Mirror   string            // used for the build only; empty: Debian's own
	Log      io.Writer         // gets the output of the tools; may be nil
	Done     func(percent int) // is told how much of a long step is done; may be nil
}

// Built describes a finished image.
type Built struct {
	Digest banger.Digest
	Size   banger.Size
	Origin string // "debian trixie 13.8, 230 packages"
}

// Build builds the default image at opts.Out. It calls progress as each step begins. A
// host that lacks the tools is an Unready error. After an error, nothing is left at
// opts.Out or beside it.
func Build(ctx context.Context, runner hostcmd.Runner, opts Options, progress func(string)) (Built, error) {
	fail := func(err error) (Built, error) {
		return Built{}, &banger.Error{What: "build default image", Why: err}
	}
	packages, err := readPackages(opts.Packages)
	if err != nil {
		return fail(err)
	}
	if err := Ready(runner); err != nil {
		return fail(err)
	}
	tree, err := unnamed(cmp.Or(opts.WorkDir, filepath.Dir(opts.Out)))
	if err != nil {
		return fail(err)
	}
	defer tree.Close()
	if err := bootstrap(ctx, runner, opts, packages, tree, progress); err != nil {
		return fail(err)
	}
	origin, err := describe(tree)
	if err != nil {
		return fail(err)
	}
	extras, err := extrasLayer()
	if err != nil {
		return fail(err)
	}
	progress("write the file system")
	var layers []rootfs.Layer
	for _, archive := range []io.ReadSeeker{tree, extras} {
		layer, err := rootfs.Rewound(archive)
		if err != nil {
			return fail(err)
		}
		layers = append(layers, layer)
	}
	result, err := rootfs.Flatten(ctx, layers, opts.Out, rootfs.Options{Label: wire.LabelBase, Reset: true})
	if err != nil {
		return fail(err)
	}
	return Built{Digest: result.Digest, Size: result.Size, Origin: origin}, nil
}

// unnamed returns a file without a name, which is gone once it is closed.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".image-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("create a temporary file: %w", err)
	}
	return f, nil
}
