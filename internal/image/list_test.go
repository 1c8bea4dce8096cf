package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"banger"
	"banger/internal/store"
)

func TestUseOfImagesAndKernels(t *testing.T) {
	digest := func(c string) banger.Digest { return banger.Digest("sha256:" + strings.Repeat(c, 64)) }
	i, ctx := newImages(t), t.Context()
	rootfs := i.Dirs.Image(digest("1")).Rootfs()
	err := errors.Join(
		os.MkdirAll(filepath.Dir(rootfs), 0o700), os.WriteFile(rootfs, make([]byte, 64<<10), 0o400),
		i.Store.PutImage(ctx, banger.Image{Name: "docker", ID: digest("1")}),
		i.Store.PutImage(ctx, banger.Image{Name: "spare", ID: digest("2")}),
		i.Store.PutKernel(ctx, banger.Kernel{Name: "6.12", ID: digest("3")}),
		insert(i, store.VM{ID: "1", Name: "otter", ImageID: digest("1"), KernelID: digest("3")}),
		insert(i, store.VM{ID: "2", Name: "wombat", ImageID: digest("1")}))
	if err != nil {
		t.Fatal(err)
	}
	images, err := i.ListImages(ctx)
	if err != nil || len(images) != 2 {
		t.Fatalf("%v, %v", images, err)
	}
	if use := images[0].Use; !reflect.DeepEqual(use.VMs, []string{"otter", "wombat"}) || use.OnHost < 64*banger.KiB {
		t.Errorf("%+v", use)
	}
	if use := images[1].Use; use.VMs == nil || len(use.VMs) != 0 || use.OnHost != 0 {
		t.Errorf("%+v", use)
	}
	kernels, err := i.ListKernels(ctx)
	if err != nil || !reflect.DeepEqual(kernels[0].Use.VMs, []string{"otter"}) {
		t.Errorf("%+v, %v", kernels, err)
	}
}

func insert(i *Images, vm store.VM) error {
	_, err := i.Store.InsertVM(context.Background(), vm)
	return err
}
