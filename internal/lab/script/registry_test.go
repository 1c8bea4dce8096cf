package script

import (
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/internal/oci/ocitest"
)

// push puts an image with the files of an archive into the script's registry, which
// listens at $REGISTRY: push app:1 tree.tar.
func push(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: push NAME:TAG ARCHIVE")
	}
	layer, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	config := map[string]any{"Env": []string{"PATH=/opt/bin:/bin"}, "Entrypoint": []string{"/bin/sh"}, "User": "nobody"}
	ts.Value("registry").(*ocitest.Registry).Push(args[0], ocitest.New(ocitest.Host, config, layer))
}

// mirror makes the home's daemon ask a registry with an image for those of Docker Hub.
func (h *home) mirror() {
	h.t.Helper()
	layer, err := os.ReadFile(filepath.Join(h.dir, "rootfs.tar"))
	if err != nil {
		h.t.Fatal(err)
	}
	registry := ocitest.NewRegistry(h.t)
	registry.Push("library/debian:trixie", ocitest.New(ocitest.Host, nil, layer))
	registry.Push("org/app:1.2", ocitest.New(ocitest.Host, nil, layer))
	config := "registry_mirrors = [\"docker.io=http://" + registry.Host + "\", \"ghcr.io=http://" + registry.Host + "\"]\n"
	dir := filepath.Join(h.dir, "config/banger")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		h.t.Fatal(err)
	}
}
