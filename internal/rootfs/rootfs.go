// Package rootfs converts tar archives into read-only ext4 file systems. It does not
// trust the archives: it decides what each name is in the end, changes what tar2ext4
// cannot write, and refuses what makes no sense. It does not know where archives come
// from, and it never mounts or unpacks one.
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

// Options tell Write how to write the file system.
type Options struct {
	Label string // at most 16 bytes

	// Reset removes what belongs to one machine and not to an image: its host
	// keys, host name and machine id, its logs, caches and run-time state.
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
	Entries int           // names in the file system, without the root
}

// Write creates an ext4 file system at path from one tar archive. The result depends
// only on the archive and opts. Write copies a reader that cannot seek into an unnamed
// file beside path. The file system appears at path only when it is complete, synced
// and read-only; an error leaves nothing. An unusable archive is an Invalid error.
func Write(ctx context.Context, tar io.Reader, path string, opts Options) (Result, error) {
	layer, done, err := reopened(ctx, tar, filepath.Dir(path))
	if err != nil {
		return Result{}, err
	}
	defer done()
	return write(ctx, newIndex(plain), []Layer{layer}, path, opts)
}

// Flatten is Write for the layers of an OCI image, lowest first, each of which it reads
// twice. An entry ".wh.x" removes x of the layers below, and ".wh..wh..opq" removes all
// that they have in its directory.
func Flatten(ctx context.Context, layers []Layer, path string, opts Options) (Result, error) {
	return write(ctx, newIndex(layered), layers, path, opts)
}

func write(ctx context.Context, x *index, from []Layer, path string, opts Options) (_ Result, err error) {
	if len(opts.Label) > labelSize {
		return Result{}, fmt.Errorf("label %q is longer than %d bytes", opts.Label, labelSize)
	}
	layers := &layers{ctx, from}
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
