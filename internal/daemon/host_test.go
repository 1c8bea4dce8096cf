package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"banger"
	"banger/internal/config"
)

type listed struct {
	banger.VMService
	vms []banger.VM
}

func (l listed) ListVMs(context.Context) ([]banger.VM, error) { return l.vms, nil }

func TestUseOfImagesAndKernels(t *testing.T) {
	digest := func(c string) banger.Digest { return banger.Digest("sha256:" + strings.Repeat(c, 64)) }
	dirs := config.Dirs{State: t.TempDir()}
	rootfs := dirs.Image(digest("1")).Rootfs()
	err := errors.Join(os.MkdirAll(filepath.Dir(rootfs), 0o700), os.WriteFile(rootfs, make([]byte, 64<<10), 0o400))
	if err != nil {
		t.Fatal(err)
	}
	h := &host{d: &daemon{dirs: dirs}, parts: Parts{
		VMs: listed{vms: []banger.VM{{Name: "otter", ImageID: digest("1"), KernelID: digest("3")}, {Name: "wombat", ImageID: digest("1")}}},
		Images: func(context.Context) ([]banger.Image, error) {
			return []banger.Image{{Name: "docker", ID: digest("1")}, {Name: "spare", ID: digest("2")}}, nil
		},
		Kernels: func(context.Context) ([]banger.Kernel, error) {
			return []banger.Kernel{{Name: "6.12", ID: digest("3")}}, nil
		},
	}}
	images, err := h.ListImages(t.Context())
	if err != nil || len(images) != 2 {
		t.Fatalf("%v, %v", images, err)
	}
	if use := images[0].Use; !reflect.DeepEqual(use.VMs, []string{"otter", "wombat"}) || use.OnHost < 64*banger.KiB {
		t.Errorf("%+v", use)
	}
	if use := images[1].Use; use.VMs == nil || len(use.VMs) != 0 || use.OnHost != 0 {
		t.Errorf("%+v", use)
	}
	kernels, err := h.ListKernels(t.Context())
	if err != nil || !reflect.DeepEqual(kernels[0].Use.VMs, []string{"otter"}) {
		t.Errorf("%+v, %v", kernels, err)
	}
}
