package image

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"banger"
	"banger/internal/store"
)

func TestDelete(t *testing.T) {
	i := newImages(t)
	if err := os.MkdirAll(i.Dirs.Images(), 0o700); err != nil {
		t.Fatal(err)
	}
	empty := i.state(t)
	file := archive(t, small(t))
	image := banger.Image{}
	for _, name := range []string{"one", "two"} {
		var err error
		if image, err = i.ImportImage(t.Context(), banger.ImportImage{Name: name, File: file}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.DeleteImage(t.Context(), "one", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(i.Dirs.Image(image.ID).Rootfs()); err != nil {
		t.Errorf("it has another name: %v", err)
	}
	vm := store.VM{ID: "0123456789ab", Name: "otter", Image: "two", ImageID: image.ID, Phase: store.Ready}
	if err := insert(i, vm); err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	err := i.DeleteImage(t.Context(), "two", nil)
	if banger.KindOf(err) != banger.Conflict || err.Error() != `delete image "two": it is in use by otter` || !strings.HasPrefix(banger.FixOf(err), "banger vm delete otter") {
		t.Errorf("%v, fix %q", err, banger.FixOf(err))
	}
	if after := i.state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if err := errors.Join(i.Store.DeleteVM(t.Context(), vm.ID), i.DeleteImage(t.Context(), "two", nil)); err != nil {
		t.Fatal(err)
	}
	if after := i.state(t); after != empty {
		t.Errorf("left:\n%s", after)
	}
	if err := i.DeleteImage(t.Context(), "two", nil); banger.KindOf(err) != banger.NotFound || banger.FixOf(err) != "banger image list" {
		t.Errorf("%v, fix %q", err, banger.FixOf(err))
	}
}

// TestEveryStepOfADeletionFails: after a failed deletion the image is unchanged, and the
// next daemon removes the files of a deletion that was killed.
func TestEveryStepOfADeletionFails(t *testing.T) {
	i := newImages(t)
	image, err := i.ImportImage(t.Context(), banger.ImportImage{Name: "old", File: archive(t, small(t))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	injected := errors.New("injected")
	var steps []string
	i.Operations.Before = func(step string) error { steps = append(steps, step); return injected }
	if err := i.DeleteImage(t.Context(), "old", nil); !errors.Is(err, injected) || !slices.Equal(steps, []string{"delete"}) {
		t.Errorf("%v, steps %q", err, steps)
	}
	if after := i.state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	i.Operations.Before = nil
	// A daemon that is killed here has deleted the record, but no files.
	if _, last, err := i.Store.ForgetImage(t.Context(), "old"); err != nil || !last {
		t.Errorf("last %v, %v", last, err)
	}
	if err := i.sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(string(i.Dirs.Image(image.ID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its files: %v", err)
	}
}
