package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"banger"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/oci"
	"banger/internal/oci/registry"
	"banger/internal/operation"
)

// pulling is the state of one pull.
type pulling struct {
	making
	op     *operation.Operation
	spec   banger.PullImage
	ref    oci.Ref
	found  *registry.Found
	layers *registry.Layers
	end    func() // of the turn
}

// PullImage implements banger.ImageService. A failed pull leaves only downloads that the
// next one continues.
func (i *Images) PullImage(ctx context.Context, spec banger.PullImage, progress banger.Progress) (_ banger.Image, err error) {
	ref, err := oci.ParseRef(spec.Ref)
	if err != nil {
		return banger.Image{}, operation.Name(err, "image", "pull", spec.Name)
	}
	p := &pulling{spec: spec, ref: ref, end: func() {}}
	p.making = making{Images: i, name: cmp.Or(spec.Name, ref.Name()), origin: ref.String()}
	p.op = i.Operations.Begin("image", "pull", p.name, "", progress)
	defer p.op.End(ctx, &err)
	defer p.close(&err)
	err = p.op.Run(ctx,
		operation.Step{Name: "check the name", Do: p.checkPulled},
		operation.Step{Name: "ask the registry", Do: p.find})
	if err != nil || p.made.ID != "" { // it is there
		return p.made, err
	}
	err = p.op.Run(ctx,
		operation.Step{Name: stepDownload, Do: p.download},
		operation.Step{Name: "write the file system", Do: p.write},
		operation.Step{Name: "record", Do: p.recordPulled})
	if err == nil {
		p.op.Note("record", p.note)
	}
	return p.made, err
}

const stepDownload = "download"

// Pulled returns the image of a name in a registry. It pulls an image that is missing, and
// does not ask for a newer one.
func (i *Images) Pulled(ctx context.Context, text string, progress banger.Progress) (banger.Image, error) {
	ref, err := oci.ParseRef(text)
	if err != nil {
		return banger.Image{}, err
	}
	all, err := i.Store.Images(ctx)
	if err != nil {
		return banger.Image{}, err
	}
	for _, image := range all {
		if readInfo(i.Dirs.Image(image.ID)).manifest(ref) != "" {
			return image, nil
		}
	}
	return i.PullImage(ctx, banger.PullImage{Ref: text}, progress)
}

// manifest returns the manifest that a reference stood for when the image was made, or "".
func (i info) manifest(ref oci.Ref) banger.Digest {
	for _, s := range i.Sources {
		if s.Ref == ref.String() {
			return s.Manifest
		}
	}
	return ""
}

// checkPulled refuses a name that has an image of something else.
func (p *pulling) checkPulled(ctx context.Context) error {
	if err := p.checkOwnName(); err != nil {
		return err
	}
	_, _, err := p.before(ctx)
	return err
}

// before returns the image that the name has, and whether it has one.
func (p *pulling) before(ctx context.Context) (image banger.Image, there bool, err error) {
	image, err = p.Store.Image(ctx, p.name)
	if banger.KindOf(err) == banger.NotFound {
		return image, false, nil
	}
	if err == nil && readInfo(p.Dirs.Image(image.ID)).manifest(p.ref) == "" {
		err = &banger.Error{Kind: banger.Conflict, Why: fmt.Errorf("an image named %q already exists, from %s", p.name, image.Origin),
			Fix: "banger image pull " + p.spec.Ref + " NAME, with another name"}
	}
	return image, true, err
}

// find finds the image in the registry, and waits until nobody else makes the same. It
// sets made if the image is there.
func (p *pulling) find(ctx context.Context) (err error) {
	if p.spec.AuthFile != "" && !filepath.IsAbs(p.spec.AuthFile) {
		return banger.Invalidf("give the file's absolute path", "%q is not an absolute path", p.spec.AuthFile)
	}
	if p.found, err = p.Registry.Find(ctx, p.ref, p.spec.AuthFile); err != nil {
		return err
	}
	p.info.Sources = []source{{p.ref.String(), p.found.Digest}}
	if p.end, err = p.turns.take(ctx, p.found.Digest); err != nil {
		return err
	}
	image, there, err := p.before(ctx)
	if err == nil && there && readInfo(p.Dirs.Image(image.ID)).manifest(p.ref) == p.found.Digest {
		p.made = image
	}
	return err
}

// reportEvery is how often a download says how far it is.
const reportEvery = 250 * time.Millisecond

func (p *pulling) download(ctx context.Context) error {
	all, missing := p.found.Size()
	if err := p.checkRoom(all); err != nil { // a file system takes no less than its packed layers
		return err
	}
	if err := p.checkCache(missing); err != nil {
		return err
	}
	var mu sync.Mutex
	var reported time.Time
	layers, err := p.found.Download(ctx, func(moved int64) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(reported) >= reportEvery || banger.Size(moved) == all {
			reported = now
			p.op.Moved(stepDownload, banger.Size(moved), all)
		}
	})
	p.layers = layers
	if disk.Full(err) {
		return p.fullCache(err)
	}
	return err
}

func (p *pulling) checkCache(need banger.Size) error {
	if err := durable.MkdirAll(p.Dirs.Blobs(), 0o700); err != nil {
		return err
	}
	free, err := disk.Free(p.Dirs.Blobs())
	if err != nil || free >= need {
		return err
	}
	return p.fullCache(fmt.Errorf("%s has %v free, the download needs %v", p.Dirs.Blobs(), free, need))
}

func (p *pulling) fullCache(why error) error {
	return &banger.Error{Kind: banger.Unready, Why: why, Fix: "banger image prune, or free space on " + disk.MountPoint(p.Dirs.Blobs())}
}

func (p *pulling) write(ctx context.Context) error {
	if err := p.stageIn(); err != nil {
		return err
	}
	err := p.writeLayers(ctx, p.found.Config, p.layers.Contents())
	if banger.KindOf(err) == banger.Invalid { // if the cache is what is damaged, the next pull downloads anew
		return errors.Join(err, p.layers.Drop())
	}
	return err
}

// recordPulled gives the image its name, which an older image of the same source may have.
func (p *pulling) recordPulled(ctx context.Context) error {
	return p.place(ctx, func(ctx context.Context) error {
		old, there, err := p.before(ctx)
		if err != nil {
			return err
		}
		if !there {
			return p.Store.AddImage(ctx, p.made)
		}
		if err := p.replace(ctx, old); err != nil || old.ID == p.made.ID {
			return err
		}
		return readInfo(p.Dirs.Image(old.ID)).without(p.ref).write(p.Dirs.Image(old.ID))
	})
}

// without returns i without a source.
func (i info) without(ref oci.Ref) info {
	i.Sources = slices.DeleteFunc(slices.Clone(i.Sources), func(s source) bool { return s.Ref == ref.String() })
	return i
}

func (p *pulling) close(err *error) {
	p.end()
	if p.layers != nil {
		p.layers.Close()
	}
	p.removeStage(err)
}

// turns are who makes the image of which manifest.
type turns struct {
	mu    sync.Mutex
	taken map[banger.Digest]chan struct{} // closed at the end
}

// take waits until nobody else has the turn, and returns what ends it.
func (t *turns) take(ctx context.Context, d banger.Digest) (end func(), err error) {
	for {
		t.mu.Lock()
		taken := t.taken[d]
		if taken == nil {
			if t.taken == nil {
				t.taken = map[banger.Digest]chan struct{}{}
			}
			mine := make(chan struct{})
			t.taken[d] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.taken, d)
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return func() {}, ctx.Err()
		}
	}
}
