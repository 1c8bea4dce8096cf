package kernel

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/debian"
	"banger/internal/hostcmd"
)

// TestBuildFromDebian builds the real set, and checks our indexes against the
// host's depmod and modprobe.
func TestBuildFromDebian(t *testing.T) {
	work := os.Getenv("BANGER_TEST_DEBIAN")
	if work == "" {
		t.Skip("needs the network: set BANGER_TEST_DEBIAN to a directory to work in")
	}
	keyring, err := debian.WriteKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	out := config.KernelDir(filepath.Join(work, "kernel"))
	built, err := Build(context.Background(), hostcmd.Host{}, Options{Out: out, WorkDir: work, Keyring: keyring}, func(step string) { t.Log(step) })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", built)
	digest, size, err := bundle.KernelDigest(context.Background(), out)
	if err != nil || digest != built.Digest || size != built.Size {
		t.Errorf("the set has %s, %v: %v", digest, size, err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "apt/debs/*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("cached packages: %v, %v", debs, err)
	}
	compareWithDepmod(t, debs[0], built.Release)
}

func compareWithDepmod(t *testing.T, deb, release string) {
	depmod, err := hostcmd.Host{}.Look("depmod")
	if err != nil {
		t.Skip("depmod is not on this host: apt-get install kmod")
	}
	ctx, ours, root := context.Background(), t.TempDir(), t.TempDir()
	theirs := filepath.Join(root, "lib/modules", release)
	if err := os.MkdirAll(filepath.Dir(theirs), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{ours, filepath.Join(root, "unpacked")} {
		if err := unpack(ctx, deb, release, dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(root, "unpacked/modules"), theirs); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command(depmod, "-b", root, release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v: %s", err, said)
	}
	ours = filepath.Join(ours, "modules")
	set, err := readModules(ctx, ours)
	if err != nil {
		t.Fatal(err)
	}
	if err := set.writeIndexes(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.softdep", "modules.devname",
		"modules.builtin.bin", "modules.builtin.alias.bin",
	} {
		a, errA := os.ReadFile(filepath.Join(ours, name))
		b, errB := os.ReadFile(filepath.Join(theirs, name))
		if errA != nil || errB != nil {
			t.Errorf("%s: %v, %v", name, errA, errB)
			continue
		}
		t.Logf("%s: identical %v", name, bytes.Equal(a, b))
		if name == "modules.dep" {
			a, b = sortedDeps(a), sortedDeps(b)
		}
		if !strings.HasSuffix(name, ".dep.bin") && !bytes.Equal(a, b) {
			t.Errorf("%s differs from depmod's", name)
		}
	}
}

// sortedDeps makes lines comparable: within what loading allows, the order of
// what a module needs is free.
func sortedDeps(text []byte) []byte {
	var lines []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		slices.Sort(fields[1:])
		lines = append(lines, strings.Join(fields, " "))
	}
	return []byte(strings.Join(lines, "\n"))
}
