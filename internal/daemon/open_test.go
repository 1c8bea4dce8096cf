package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/durable/durabletest"
)

func TestOpenWithoutBundleStillServes(t *testing.T) {
	root := t.TempDir()
	env := func(key string) string {
		return map[string]string{"HOME": root, "BANGER_RUNTIME_DIR": root + "/none"}[key]
	}
	dirs, err := config.DirsFrom(env)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(dirs, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dirs.State, 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	host := Std()
	host.Network = nil // it would be this host's own
	services, err := open(t.Context(), host, dirs, c, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer services.Close()
	if vms, err := services.VMs.ListVMs(t.Context()); err != nil || len(vms) != 0 {
		t.Errorf("got %v, %v", vms, err)
	}
	if !strings.Contains(log.String(), `"fix":"make runtime"`) {
		t.Errorf("the log does not say what is missing:\n%s", log.String())
	}
	_, err = services.VMs.CreateVM(t.Context(), banger.CreateVM{Name: "otter"}, nil)
	if banger.KindOf(err) != banger.Unready || !strings.Contains(banger.FixOf(err), "make runtime") {
		t.Errorf("create: got %v, fix %q", err, banger.FixOf(err))
	}
}

func TestConfiguredDriver(t *testing.T) {
	all := drivers(config.Config{}, "")
	for _, name := range []string{"auto", "firecracker", "qemu"} {
		if err := checkDriver(all, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkDriver(all, "qmeu"); banger.KindOf(err) != banger.Invalid || !strings.HasSuffix(banger.FixOf(err), "to one of auto, firecracker, qemu") {
		t.Errorf("got %v, fix %q", err, banger.FixOf(err))
	}
}

func TestDirectoriesOutliveAPowerCut(t *testing.T) {
	root := t.TempDir()
	disk := durabletest.New(t, root)
	d := &daemon{env: Env{Getenv: func(key string) string { return map[string]string{"HOME": root}[key] }}}
	if err := d.directories(); err != nil {
		t.Fatal(err)
	}
	disk.Check(root)
}
