package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/oci/ocitest"
	"banger/internal/store"
)

// app returns the n-th version of an image.
func app(t *testing.T, n int) ocitest.Image {
	config := map[string]any{"Env": []string{fmt.Sprint("VERSION=", n)}}
	return ocitest.New(ocitest.Host, config, tree(t, map[string]string{"bin/sh": "elf"}), tree(t, map[string]string{"etc/version": fmt.Sprint(n)}))
}

func TestPull(t *testing.T) {
	i, r := newImages(t), ocitest.NewRegistry(t)
	r.Push("org/app:1", app(t, 1))
	spec := banger.PullImage{Ref: r.Host + "/org/app:1"}
	var steps []string
	var moved, total banger.Size
	first, err := i.PullImage(t.Context(), spec, func(s banger.Step) {
		if s.Done {
			steps = append(steps, s.Step)
		}
		moved, total = max(moved, s.Moved), max(total, s.Total)
	})
	if err != nil || first.Name != "app-1" || first.Origin != spec.Ref {
		t.Fatalf("%+v, %v", first, err)
	}
	if want := []string{"check the name", "ask the registry", "download", "write the file system", "record"}; !slices.Equal(steps, want) || moved == 0 || total < moved {
		t.Errorf("steps %q, %v of %v", steps, moved, total)
	}
	all, err := i.ListImages(t.Context())
	if err != nil || len(all) != 1 || all[0].Config == nil || all[0].Config.Env[0] != "VERSION=1" {
		t.Errorf("%+v, %v", all, err)
	}

	r.Requests()
	same, err := i.PullImage(t.Context(), spec, nil)
	if err != nil || same.ID != first.ID || !same.CreatedAt.Equal(first.CreatedAt) {
		t.Errorf("again: %+v, %v", same, err)
	}
	if there, err := i.Pulled(t.Context(), spec.Ref, nil); err != nil || there.ID != first.ID {
		t.Errorf("pulled: %+v, %v", there, err)
	}
	if asked := r.Requests(); len(asked) != 2 { // for the manifest and the configuration, by the first of the two
		t.Errorf("the registry was asked for %q", asked)
	}

	reader := newReader(t, i)
	r.Push("org/app:1", app(t, 2))
	second, err := i.PullImage(t.Context(), spec, nil)
	if err != nil || second.ID == first.ID || second.Name != "app-1" {
		t.Errorf("a newer one: %+v, %v", second, err)
	}
	if events := reader(); !slices.Equal(events, []string{"app-1 gone", "app-1"}) {
		t.Errorf("events %q", events)
	}
	if old, err := i.Store.Image(t.Context(), string(first.ID)); err != nil || old.ID != first.ID {
		t.Errorf("the older one: %+v, %v", old, err)
	}
	if there, err := i.Pulled(t.Context(), spec.Ref, nil); err != nil || there.ID != second.ID {
		t.Errorf("pulled: %+v, %v", there, err)
	}
}

// newReader returns what returns the events of images since then.
func newReader(t *testing.T, i *Images) func() []string {
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan bool)
	done := make(chan []string)
	go func() {
		var all []string
		for e, err := range i.Events.Read(ctx) {
			switch {
			case err != nil:
				done <- all
				return
			case e.Kind == banger.EventReady:
				close(ready)
			case e.Gone && e.Image != nil:
				all = append(all, e.Image.Name+" gone")
			case e.Image != nil && e.Image.Name == "end":
				cancel()
			case e.Image != nil:
				all = append(all, e.Image.Name)
			}
		}
		done <- all
	}()
	<-ready
	return func() []string {
		i.Events.Publish(banger.Event{Kind: banger.EventImage, Image: &banger.Image{Name: "end"}})
		return <-done
	}
}

func TestPullIsRefused(t *testing.T) {
	i, r := newImages(t), ocitest.NewRegistry(t)
	r.Push("app:1", app(t, 1))
	r.Push("foreign:1", ocitest.New("linux/riscv64", nil, small(t)))
	r.Push("other/app:1", app(t, 3))
	if _, err := i.PullImage(t.Context(), banger.PullImage{Ref: r.Host + "/app:1"}, nil); err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	for name, c := range map[string]struct {
		spec banger.PullImage
		kind banger.Kind
		fix  string
	}{
		"no reference":           {banger.PullImage{Ref: "A B"}, banger.Invalid, "write it as in docker pull"},
		"an invalid name":        {banger.PullImage{Ref: r.Host + "/app:1", Name: "A"}, banger.Invalid, "use lower-case"},
		"the bundle's name":      {banger.PullImage{Ref: r.Host + "/app:1", Name: "docker"}, banger.Conflict, "choose another name"},
		"a name of another":      {banger.PullImage{Ref: r.Host + "/other/app:1"}, banger.Conflict, "banger image pull " + r.Host + "/other/app:1 NAME"},
		"not there":              {banger.PullImage{Ref: r.Host + "/app:2"}, banger.NotFound, "check the name"},
		"for another machine":    {banger.PullImage{Ref: r.Host + "/foreign:1"}, banger.Invalid, "use an image for linux/"},
		"nobody answers":         {banger.PullImage{Ref: "127.0.0.1:1/app:1", Name: "new"}, banger.Unready, "curl -I"},
		"relative credentials":   {banger.PullImage{Ref: r.Host + "/app:1", AuthFile: "x"}, banger.Invalid, "give the file's absolute path"},
		"a damaged set of users": {banger.PullImage{Ref: r.Host + "/app:1", AuthFile: archive(t, []byte("{"))}, banger.Invalid, "repair the file"},
	} {
		_, err := i.PullImage(t.Context(), c.spec, nil)
		if banger.KindOf(err) != c.kind || !strings.Contains(banger.FixOf(err), c.fix) {
			t.Errorf("%s: %v (%s), fix %q", name, err, banger.KindOf(err), banger.FixOf(err))
		}
	}
	if after := i.state(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestEveryStepOfAPullFails: a pull that fails or is cancelled at any step leaves nothing
// but downloads, and the next one succeeds.
func TestEveryStepOfAPullFails(t *testing.T) {
	i, r := newImages(t), ocitest.NewRegistry(t)
	r.Push("app:1", app(t, 1))
	spec := banger.PullImage{Ref: r.Host + "/app:1"}
	if err := os.MkdirAll(i.Dirs.Images(), 0o700); err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	for _, failing := range []string{"check the name", "ask the registry", "download", "write the file system", "record"} {
		injected := errors.New("injected")
		ctx, cancel := context.WithCancel(t.Context())
		for _, act := range []func() error{func() error { return injected }, func() error { cancel(); return nil }} {
			i.Operations.Before = func(step string) error {
				if step == failing {
					return act()
				}
				return nil
			}
			_, err := i.PullImage(ctx, spec, nil)
			if err == nil || !errors.Is(err, injected) && banger.KindOf(err) != banger.Canceled {
				t.Errorf("%s: %v", failing, err)
			}
			if after := i.state(t); after != before {
				t.Errorf("%s: before:\n%s\nafter:\n%s", failing, before, after)
			}
		}
		cancel()
	}
	i.Operations.Before = nil
	if _, err := i.PullImage(t.Context(), spec, nil); err != nil {
		t.Error(err)
	}
}

// TestPullsOfTheSame: at a time, they make one image.
func TestPullsOfTheSame(t *testing.T) {
	i, r := newImages(t), ocitest.NewRegistry(t)
	r.Push("app:1", app(t, 1))
	var all sync.WaitGroup
	writes := 0
	i.Operations.Before = func(step string) error {
		i.mu.Lock()
		defer i.mu.Unlock()
		if step == "write the file system" {
			writes++
		}
		return nil
	}
	for n := range 6 {
		all.Go(func() {
			name := ""
			if n == 5 {
				name = "other"
			}
			if image, err := i.PullImage(t.Context(), banger.PullImage{Ref: r.Host + "/app:1", Name: name}, nil); err != nil || image.ID == "" {
				t.Errorf("%+v, %v", image, err)
			}
		})
	}
	all.Wait()
	if dirs, err := os.ReadDir(i.Dirs.Images()); err != nil || len(dirs) != 1 || writes != 2 {
		t.Errorf("%d directories, %d writes, %v", len(dirs), writes, err)
	}
}

// TestPullOverADamagedCache: what a pull finds damaged, the next one downloads.
func TestPullOverADamagedCache(t *testing.T) {
	i, r := newImages(t), ocitest.NewRegistry(t)
	made := app(t, 1)
	r.Push("app:1", made)
	if err := os.MkdirAll(i.Dirs.Blobs(), 0o700); err != nil {
		t.Fatal(err)
	}
	for d, data := range made.Blobs {
		if strings.HasPrefix(string(data), "\x1f\x8b") {
			if err := os.WriteFile(filepath.Join(i.Dirs.Blobs(), strings.TrimPrefix(string(d), "sha256:")), make([]byte, len(data)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	spec := banger.PullImage{Ref: r.Host + "/app:1"}
	if _, err := i.PullImage(t.Context(), spec, nil); banger.KindOf(err) != banger.Invalid {
		t.Errorf("over a damaged cache: %v", err)
	}
	if _, err := i.PullImage(t.Context(), spec, nil); err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	i, r := newImages(t), ocitest.NewRegistry(t)
	spec := banger.PullImage{Ref: r.Host + "/app:1"}
	var ids []banger.Digest
	for n := range 3 {
		r.Push("app:1", app(t, n))
		image, err := i.PullImage(t.Context(), spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, image.ID)
	}
	kernel := func(c string) banger.Digest { return banger.Digest("sha256:" + strings.Repeat(c, 64)) }
	for n, c := range []string{"a", "b", "c"} { // of a VM, old, of the bundle
		err := errors.Join(i.Store.PutKernel(t.Context(), banger.Kernel{Name: c, ID: kernel(c), CreatedAt: time.Unix(int64(n), 0)}), os.MkdirAll(string(i.Dirs.Kernel(kernel(c))), 0o700))
		for _, file := range []string{i.Dirs.Kernel(kernel(c)).Vmlinux(), i.Dirs.Agent(kernel(c)), i.Dirs.Firecracker(kernel(c)), i.Dirs.BaseInitrd(kernel(c), kernel("c"))} {
			err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, make([]byte, 8192), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	i.Installed.Kernel.ID, i.Installed.Agent, i.Installed.Firecracker = kernel("c"), kernel("c"), kernel("c")
	vm := store.VM{ID: "0123456789ab", Name: "otter", Image: "app-1", ImageID: ids[0], KernelID: kernel("a"), Phase: store.Ready}
	if err := insert(i, vm); err != nil {
		t.Fatal(err)
	}
	before := i.state(t)
	looked, err := i.PruneImages(t.Context(), banger.PruneImages{DryRun: true}, nil)
	if after := i.state(t); err != nil || after != before {
		t.Errorf("%v; before:\n%s\nafter:\n%s", err, before, after)
	}
	pruned, err := i.PruneImages(t.Context(), banger.PruneImages{}, nil)
	if err != nil || !slices.Equal(pruned.Items, looked.Items) || pruned.Freed != looked.Freed || pruned.Freed == 0 {
		t.Errorf("%v, pruned %v\nlooked %v", err, pruned, looked)
	}
	kinds := map[banger.PrunedKind]int{}
	for n, item := range pruned.Items {
		kinds[item.Kind]++
		if n > 0 && item.Size > pruned.Items[n-1].Size {
			t.Errorf("%v is larger than the one before", item)
		}
	}
	want := map[banger.PrunedKind]int{banger.PrunedImage: 1, banger.PrunedKernel: 1, banger.PrunedAgent: 2, banger.PrunedFirecracker: 2, banger.PrunedInitrd: 1, banger.PrunedDownload: 4}
	for kind, n := range want {
		if kinds[kind] != n {
			t.Errorf("%d of %s, want %d", kinds[kind], kind, n)
		}
	}
	for id, there := range map[banger.Digest]bool{ids[0]: true, ids[1]: false, ids[2]: true} {
		if _, err := os.Stat(i.Dirs.Image(id).Rootfs()); (err == nil) != there {
			t.Errorf("%s: %v", id, err)
		}
	}
	for c, there := range map[string]bool{"a": true, "b": false, "c": true} {
		_, errK := i.Store.Kernel(t.Context(), c)
		_, errF := os.Stat(i.Dirs.Kernel(kernel(c)).Vmlinux())
		_, errI := os.Stat(i.Dirs.BaseInitrd(kernel(c), kernel("c")))
		if (errK == nil) != there || (errF == nil) != there || (errI == nil) != there {
			t.Errorf("kernel %s: %v, %v, %v", c, errK, errF, errI)
		}
	}
	if again, err := i.PruneImages(t.Context(), banger.PruneImages{}, nil); err != nil || len(again.Items) != 0 {
		t.Errorf("again: %v, %v", again, err)
	}
	if there, err := i.Pulled(t.Context(), spec.Ref, nil); err != nil || there.ID != ids[2] {
		t.Errorf("%+v, %v", there, err)
	}
}

// TestPruneWhileDownloading: what is downloaded now stays.
func TestPruneWhileDownloading(t *testing.T) {
	i, r := newImages(t), ocitest.NewRegistry(t)
	made := app(t, 1)
	r.Push("app:1", made)
	asked, pruned := make(chan bool, 10), make(chan bool)
	r.Fail(func(w http.ResponseWriter, req *http.Request) bool {
		if d := banger.Digest(filepath.Base(req.URL.Path)); strings.HasPrefix(string(made.Blobs[d]), "\x1f\x8b") {
			asked <- true
			<-pruned
		}
		return false
	})
	done := make(chan error)
	go func() {
		_, err := i.PullImage(t.Context(), banger.PullImage{Ref: r.Host + "/app:1"}, nil)
		done <- err
	}()
	<-asked
	<-asked
	if p, err := i.PruneImages(t.Context(), banger.PruneImages{}, nil); err != nil || len(p.Items) != 0 {
		t.Errorf("%v, %v", p, err)
	}
	close(pruned)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
