// Package rootfs turns tar archives into read-only ext4 file systems. Whatever
// wrote the archive is not trusted: one normaliser decides what each name is
// in the end, repairs what an ext4 writer cannot take, and refuses what has no
// sane meaning. It does not know where archives come from, and it never mounts
// or unpacks one.
package rootfs

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"banger"
	"banger/internal/durable"
)

// Options says how the file system is to be written.
type Options struct {
	Label string // at most 16 bytes

	// Reset takes out what belongs to one machine and not to an image: its
	// host keys, name and machine id, its logs, caches and run-time state.
	Reset bool

	// Check, if set, looks at what the archives hold before anything is written.
	// Its error ends the work.
	Check func(Tree) error
}

// Tree is what archives hold.
type Tree struct{ x *index }

// Has reports whether a path exists. It follows symbolic links in the directories
// of the path, and not the last name's.
func (t Tree) Has(path string) bool {
	n, err := t.x.find(path, path)
	return err == nil && n != nil
}

// Top returns the names in the root directory, sorted.
func (t Tree) Top() []string { return slices.Sorted(maps.Keys(t.x.root.children)) }

// Result describes a finished file system.
type Result struct {
	Digest  banger.Digest // of the file
	Size    banger.Size   // of the file; holes count
	Entries int           // names in it, the root not counted
}

// Write makes the ext4 file system at path out of one tar archive. The result
// depends on nothing but the archive and opts. A reader that cannot seek is
// spooled to an unnamed file beside path. The file appears under its name only
// when it is whole and on disk, read-only; on an error nothing is left. An
// archive that cannot be used is an Invalid error.
func Write(ctx context.Context, tar io.Reader, path string, opts Options) (Result, error) {
	return write(ctx, newIndex(plain), []io.Reader{tar}, path, opts)
}

// Flatten is Write for a stack of archives, lowest first, in which a name
// ".wh.x" takes away x of the layers below, and ".wh..wh..opq" all that they
// have in its directory, as OCI images have it.
func Flatten(ctx context.Context, layers []io.Reader, path string, opts Options) (Result, error) {
	return write(ctx, newIndex(layered), layers, path, opts)
}

func write(ctx context.Context, x *index, from []io.Reader, path string, opts Options) (_ Result, err error) {
	if len(opts.Label) > labelSize {
		return Result{}, fmt.Errorf("label %q is longer than %d bytes", opts.Label, labelSize)
	}
	layers, err := openLayers(ctx, from, filepath.Dir(path))
	if err != nil {
		return Result{}, err
	}
	defer layers.Close()
	if err := layers.index(x); err != nil {
		return Result{}, err
	}
	if opts.Check != nil && x.nodes > 0 {
		if err := opts.Check(Tree{x}); err != nil {
			return Result{}, err
		}
	}
	if opts.Reset {
		x.reset()
	}
	plan, err := x.plan()
	if err != nil {
		return Result{}, err
	}
	var result Result
	err = durable.Write(path, 0o444, func(out *os.File) (err error) {
		if err := convert(out, func(w io.Writer) error { return layers.emit(plan, w) }, opts.Label); err != nil {
			return err
		}
		result, err = measure(ctx, out)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	result.Entries = plan.entries
	return result, nil
}
