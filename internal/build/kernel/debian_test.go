//go:build vm

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

	"banger/internal/build/debian"
	"banger/internal/bundle"
	"banger/internal/config"
	"banger/internal/hostcmd"
)

// TestBuildFromDebian builds a set from Debian's kernel, and compares our indexes with
// those of the host's depmod.
func TestBuildFromDebian(t *testing.T) {
	work := t.TempDir()
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
	ourRoot, ours := unpackModules(t, deb, release)
	theirRoot, theirs := unpackModules(t, deb, release)
	if _, err := readModules(context.Background(), theirs); err != nil { // which unpacks them
		t.Fatal(err)
	}
	if said, err := exec.Command(depmod, "-b", theirRoot, release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v: %s", err, said)
	}
	set, err := readModules(context.Background(), ours)
	if err != nil {
		t.Fatal(err)
	}
	if err := set.writeIndexes(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"modules.dep", "modules.alias", "modules.alias.bin", "modules.softdep", "modules.devname",
		"modules.builtin.bin", "modules.builtin.alias.bin",
	} {
		a, errA := os.ReadFile(filepath.Join(ours, name))
		b, errB := os.ReadFile(filepath.Join(theirs, name))
		if name == "modules.dep" {
			a, b = sortedDeps(a), sortedDeps(b)
		}
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs from depmod's: %v, %v", name, errA, errB)
		}
	}
	for i := 0; i < len(set.list); i += 7 {
		name := set.list[i].name
		a, b := showDepends(t, ourRoot, release, name), showDepends(t, theirRoot, release, name)
		last := len(a) - 1
		if a[last] != b[last] {
			t.Errorf("modprobe %s loads %s, not %s", name, a[last], b[last])
		}
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Errorf("modprobe %s loads %v, not %v", name, a, b)
		}
	}
}

func unpackModules(t *testing.T, deb, release string) (root, modules string) {
	t.Helper()
	root = t.TempDir()
	modules = filepath.Join(root, "lib/modules", release)
	if err := unpack(context.Background(), deb, release, filepath.Join(root, "unpacked")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(modules), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "unpacked/modules"), modules); err != nil {
		t.Fatal(err)
	}
	return root, modules
}

// sortedDeps sorts what each module needs, to compare lines: several orders are correct.
func sortedDeps(text []byte) []byte {
	var lines []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		slices.Sort(fields[1:])
		lines = append(lines, strings.Join(fields, " "))
	}
	return []byte(strings.Join(lines, "\n"))
}
