// Package build makes images in VMs and from VMs: `image build`, `image commit`, and `image
// diff`. It owns what runs in the VM of a build, and what of a VM becomes an image. The
// images belong to package image, the VMs to package vm; the runtime bundle is built by
// internal/build.
package build

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/guest/wire"
	"banger/internal/image"
	"banger/internal/operation"
	"banger/internal/rootfs"
	"banger/internal/vm"
)

// VMs are the VMs of the daemon. The second implementation is a test's.
type VMs interface {
	banger.VMService
	CreateHelper(ctx context.Context, spec banger.CreateVM, how vm.Helper, progress banger.Progress) (banger.VM, error)
	Key(ref string) ([]byte, error)
}

// Builder implements banger.BuildService.
type Builder struct {
	Dirs       config.Dirs
	Config     config.Config
	Images     *image.Images
	VMs        VMs
	Operations *operation.Runner
	Log        *slog.Logger

	mu       sync.Mutex
	building map[string]bool // names of the images that are being built
}

var _ banger.BuildService = (*Builder)(nil)

// building is the state that the steps of a build share.
type building struct {
	*operation.Operation
	*Builder
	name   string
	spec   banger.BuildImage
	recipe recipe
	before banger.Digest // of the image that has the name
	out    *output
	vm     *machine
	failed bool // a program of the build has failed
	draft  *image.Draft
	result banger.BuiltImage
}

// BuildImage implements banger.BuildService. A failure leaves only the log and, if it is to
// be kept, the VM.
func (b *Builder) BuildImage(ctx context.Context, name string, spec banger.BuildImage, progress banger.Progress) (_ banger.BuiltImage, err error) {
	now := &building{Builder: b, name: name, spec: spec}
	if err := now.prepare(ctx); err != nil || now.result.Unchanged {
		return now.result, operation.Name(operation.Plain(err), "image", banger.Build, name)
	}
	done, err := b.only(name)
	if err != nil {
		return banger.BuiltImage{}, operation.Name(err, "image", banger.Build, name)
	}
	defer done()
	now.Operation = b.Operations.Begin("image", banger.Build, name, "", progress)
	defer now.End(ctx, &err)
	if err := now.open(); err != nil {
		return banger.BuiltImage{}, err
	}
	defer func() { now.out.end(err) }()
	err = now.Run(ctx, now.steps()...)
	return now.result, err
}

func (b *building) steps() []operation.Step {
	steps := []operation.Step{{Name: startStep, Do: b.start}, {Name: "starting services", Do: b.await}, {Name: "send the inputs", Do: b.send}}
	for _, part := range []struct {
		name string
		is   bool
		do   func(context.Context) error
	}{
		{"install packages", len(b.spec.Packages) > 0, b.installPackages},
		{"install Docker", b.spec.Docker, b.installDocker},
		{"run the script", b.spec.Script != "", b.runScript},
	} {
		if part.is {
			steps = append(steps, operation.Step{Name: part.name, Do: b.program(part.name, part.do)})
		}
	}
	return append(steps, operation.Step{Name: copyStep, Do: b.export}, operation.Step{Name: "remove the VM", Do: b.end},
		operation.Step{Name: "record", Do: b.record})
}

// Names of steps that have notes.
const (
	startStep = "start a VM"
	copyStep  = "copy the system"
)

// prepare checks what can be checked without a VM, and finds out whether anything has
// changed since the last build.
func (b *building) prepare(ctx context.Context) error {
	if err := b.Images.CheckOwn(b.name); err != nil {
		return err
	}
	if err := check(b.spec); err != nil {
		return err
	}
	from, err := b.Images.Store.Image(ctx, cmp.Or(b.spec.From, b.Config.DefaultImage))
	if err != nil {
		return err
	}
	b.recipe = recipeOf(from, b.spec)
	now, err := b.Images.Store.Image(ctx, b.name)
	if banger.KindOf(err) == banger.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	text, err := b.Images.Recipe(now.ID)
	if err != nil {
		return err
	}
	last := readRecipe(text)
	if last.Key == "" {
		return b.Images.CheckFree(ctx, b.name) // which it is not
	}
	b.before = now.ID
	if last.Key == b.recipe.Key && !b.spec.Rebuild {
		b.result = banger.BuiltImage{Image: now, Unchanged: true}
	}
	return nil
}

// only makes this the only build of an image until done is called.
func (b *Builder) only(name string) (done func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.building[name] {
		return nil, &banger.Error{Kind: banger.Conflict, Why: errors.New("it is being built"), Fix: "wait until that build has ended, or interrupt it"}
	}
	if b.building == nil {
		b.building = map[string]bool{}
	}
	b.building[name] = true
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.building, name)
	}, nil
}

func (b *building) open() (err error) {
	if err := durable.MkdirAll(b.Dirs.ImageBuild(), 0o700); err != nil {
		return err
	}
	b.out, err = openLog(b.Operation, b.Dirs.BuildLog(b.name))
	b.result.Log = b.Dirs.BuildLog(b.name)
	return err
}

// start makes the VM of the build.
func (b *building) start(ctx context.Context) error {
	spec := banger.CreateVM{Name: b.spec.VM, Image: string(b.recipe.FromID), VCPUs: b.spec.VCPUs, Memory: b.spec.Memory, Overlay: b.spec.Size, Lease: b.spec.Keep}
	if spec.Name == "" {
		spec.Name = madeUp("build", b.name)
	}
	var err error
	if b.vm, err = b.startMachine(ctx, b.Operation, spec, vm.Helper{}); err != nil {
		return err
	}
	b.Push(startStep, func(ctx context.Context) error {
		if b.failed && b.spec.Keep != "" {
			return nil // the client has a shell in it, and ends it
		}
		return b.vm.remove(ctx)
	})
	if n := b.vm.Network; n.Mode == noNetwork && (len(b.spec.Packages) > 0 || b.spec.Docker) {
		note := "the build has no network"
		if n.Why != "" {
			note += ": " + n.Why
		}
		if n.Fix != "" {
			note += "; fix: " + n.Fix
		}
		b.Note(startStep, note)
	}
	return nil
}

// noNetwork is the mode of a VM without a network card.
const noNetwork = "none"

// await waits until the image's services have started: what installs packages may need them.
func (b *building) await(ctx context.Context) error {
	_, err := b.VMs.WaitVM(ctx, string(b.vm.ID), banger.WaitVM{For: banger.BootUp}, nil)
	return err
}

// program returns a step that runs a program of the build.
func (b *building) program(name string, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		b.out.begin(name)
		err := do(ctx)
		b.failed = err != nil && ctx.Err() == nil
		return err
	}
}

// export makes the image's files of the VM's.
func (b *building) export(ctx context.Context) (err error) {
	b.draft, err = b.vm.draft(ctx, b.Images, b.name, b.recipe.origin(), wire.Export{Home: true, Skip: rootfs.Volatile()})
	if err == nil {
		b.Push(copyStep, func(context.Context) error { return b.draft.Discard() })
	}
	return err
}

func (b *building) end(ctx context.Context) error { return b.vm.remove(context.WithoutCancel(ctx)) }

func (b *building) record(ctx context.Context) (err error) {
	b.result.Image, err = b.draft.Keep(ctx, b.recipe.text(), b.before)
	if err == nil {
		b.Operation.Keep()
		b.Note("record", b.draft.Note)
	}
	return err
}
