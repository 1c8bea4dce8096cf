package build

import (
	"context"
	"fmt"

	"banger"
	"banger/internal/guest/wire"
	"banger/internal/image"
	"banger/internal/operation"
	"banger/internal/rootfs"
	"banger/internal/vm"
)

// CommitVM implements banger.BuildService. The VM stays as it is. A failure leaves nothing.
func (b *Builder) CommitVM(ctx context.Context, ref string, opts banger.CommitVM, progress banger.Progress) (_ banger.Image, err error) {
	source, err := b.VMs.ShowVM(ctx, ref)
	if err != nil {
		return banger.Image{}, err
	}
	if err := b.Images.CheckFree(ctx, opts.Name); err != nil {
		return banger.Image{}, operation.Name(err, "vm", banger.Commit, source.Name)
	}
	op := b.Operations.Begin("image", banger.Commit, opts.Name, "", progress)
	defer op.End(ctx, &err)
	from, err := b.readable(ctx, op, source, vm.Helper{Home: opts.WithHome})
	if err != nil {
		return banger.Image{}, err
	}
	if from.lease == nil {
		op.Note(copyStep, fmt.Sprintf("%s runs: the image gets each file as it is when it is copied. What programs have not written yet is missing; to be sure, stop it first: banger vm stop %[1]s", source.Name))
	}
	var draft *image.Draft
	err = op.Step(ctx, copyStep, func(ctx context.Context) (err error) {
		origin := fmt.Sprintf("VM %s, from %s", source.Name, source.Image)
		draft, err = from.draft(ctx, b.Images, opts.Name, origin, wire.Export{Home: opts.WithHome, Skip: rootfs.Volatile()})
		if err == nil {
			op.Push(copyStep, func(context.Context) error { return draft.Discard() })
		}
		return err
	})
	if err != nil {
		return banger.Image{}, err
	}
	if err := b.release(ctx, op, from); err != nil {
		return banger.Image{}, err
	}
	var made banger.Image
	err = op.Step(ctx, "record", func(ctx context.Context) (err error) {
		made, err = draft.Keep(ctx, nil, "")
		return err
	})
	if err == nil {
		op.Keep()
		op.Note("record", draft.Note)
	}
	return made, err
}

// readable returns a VM whose agent can read the source's files: the source itself if it
// runs, and else a copy in which nothing but the agent runs.
func (b *Builder) readable(ctx context.Context, op *operation.Operation, source banger.VM, how vm.Helper) (*machine, error) {
	if source.State.Up() {
		return b.running(source)
	}
	how.Copy = string(source.ID)
	var m *machine
	err := op.Step(ctx, "start a copy", func(ctx context.Context) (err error) {
		m, err = b.startMachine(ctx, op, banger.CreateVM{Name: madeUp("copy", source.Name)}, how)
		if err == nil {
			op.Push("start a copy", m.remove)
		}
		return err
	})
	return m, err
}

// release deletes a copy.
func (b *Builder) release(ctx context.Context, op *operation.Operation, m *machine) error {
	if m.lease == nil {
		return nil
	}
	return op.Step(context.WithoutCancel(ctx), "remove the copy", m.remove)
}
