package banger_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors is the map of the packages: each may import only from lower floors,
// except that a package and the ones below its directory may import each other, and
// that agentIs orders the packages below guest/agent.
// docs/ARCHITECTURE.md says what each of them owns.
var floors = [][]string{
	0: {".", "internal/version", "internal/detach", "internal/linux", "internal/durable", "internal/durable/durabletest"},
	1: {"internal/operation", "internal/compression", "internal/event", "internal/hostcmd", "internal/config", "internal/subid", "internal/network", "internal/network/networktest", "internal/build/fetch", "internal/build/debian",
		"internal/guest/wire", "internal/guest/link", "internal/guest/vsock", "internal/guest/timer", "internal/guest/transfer"},
	2: {"internal/api", "internal/lease", "internal/store", "internal/disk", "internal/oci", "internal/oci/ocitest", "internal/oci/registry/blob", "internal/oci/registry", "internal/rootfs", "internal/initrd",
		"internal/network/namespace", "internal/vmm", "internal/vmm/process", "internal/guest", "internal/guest/agent", "internal/bundle", "internal/network/dns", "internal/network/apply", "internal/network/stack", "internal/network/forward", "internal/network/resolved",
		"internal/guest/agent/log", "internal/guest/agent/layout", "internal/guest/agent/inroot", "internal/guest/agent/process",
		"internal/guest/agent/socket", "internal/guest/agent/disk", "internal/guest/agent/modprobe", "internal/guest/agent/identity", "internal/guest/agent/network", "internal/guest/agent/ports",
		"internal/guest/agent/imageinit", "internal/guest/agent/mount", "internal/guest/agent/control", "internal/guest/agent/sshd", "internal/guest/agent/export",
		"internal/guest/agent/shutdown", "internal/guest/agent/server", "internal/guest/agent/boot"},
	3: {"internal/vmm/vmmtest", "internal/vmm/vmmtest/realguest", "internal/vmm/qemu", "internal/vmm/firecracker", "internal/image", "internal/vm", "internal/vm/console", "internal/doctor", "internal/network/helper", "internal/build/image", "internal/build/kernel"},
	4: {"internal/image/build", "internal/network/instance", "internal/build", "internal/lab/host"},
	5: {"internal/daemon", "internal/cli"},
	6: {"internal/lab", "internal/lab/script", "internal/lab/bare", "internal/lab/bare/init", "cmd/banger", "cmd/bangerd", "cmd/banger-agent", "cmd/banger-bundle", "cmd/banger-lab"},
}

// only lists imports that few packages may have, so that the reason for each
// stays in one place.
var only = map[string][]string{
	"os/exec": {"internal/hostcmd", "internal/cli", "internal/api", "internal/guest/agent/process", "internal/guest/agent/imageinit",
		"internal/guest/agent/sshd", "internal/guest/agent/shutdown", "internal/guest/agent/server", "internal/lab/bare"},
	"github.com/Microsoft/hcsshim/ext4/tar2ext4": {"internal/rootfs"},
	"modernc.org/sqlite":                         {"internal/store"},
	"oras.land/oras-go":                          {"internal/oci/registry"},
	"github.com/spf13/cobra":                     {"internal/cli"},
	"github.com/google/nftables":                 {"internal/network/apply"},
	"gvisor.dev/gvisor":                          {"internal/network/stack"},
}

// fewMay returns who may import a package, or nil if every package may. An entry of
// only is about the packages below it too.
func fewMay(imported string) []string {
	for name, few := range only {
		if imported == name || strings.HasPrefix(imported, name+"/") {
			return few
		}
	}
	return nil
}

// agentMay is everything outside the standard library and this module that the
// agent may import: it goes into every VM and has to stay small.
var agentMay = []string{
	"github.com/creack/pty", "github.com/hashicorp/yamux", "github.com/pkg/sftp",
	"golang.org/x/crypto/chacha20", "golang.org/x/crypto/ssh", "golang.org/x/sys/unix",
}

// agentIs lists the packages of this module that the agent is made of, from the
// bottom up: each may import only those before it.
var agentIs = []string{"internal/version", "internal/linux", "internal/durable", "internal/guest/wire", "internal/guest/link", "internal/guest/vsock", "internal/guest/timer",
	"internal/guest/transfer", "internal/guest/agent/log", "internal/guest/agent/layout", "internal/guest/agent/inroot", "internal/guest/agent/process", "internal/guest/agent/socket",
	"internal/guest/agent/disk", "internal/guest/agent/export", "internal/guest/agent/modprobe", "internal/guest/agent/identity", "internal/guest/agent/network", "internal/guest/agent/ports", "internal/guest/agent/imageinit",
	"internal/guest/agent/mount", "internal/guest/agent/control", "internal/guest/agent/sshd", "internal/guest/agent/shutdown",
	"internal/guest/agent/server", "internal/guest/agent/boot", "internal/guest/agent"}

func TestPackagesImportFromLowerFloorsOnly(t *testing.T) {
	for pkg, p := range packages(t) {
		floor, ok := floorOf(pkg)
		if !ok {
			t.Errorf("%s has no floor: add it to floors and to docs/ARCHITECTURE.md", pkg)
			continue
		}
		for _, imported := range p.imports {
			if few := fewMay(imported); few != nil && !slices.Contains(few, pkg) {
				t.Errorf("%s imports %s, which only %s may", pkg, imported, strings.Join(few, ", "))
			}
			target, ours := inModule(imported)
			if !ours || related(pkg, target) || slices.Contains(agentIs, pkg) && slices.Contains(agentIs, target) {
				continue
			}
			if below, ok := floorOf(target); !ok || below >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d)", pkg, floor, target, below)
			}
		}
	}
}

func TestPackagesSayWhatTheyOwn(t *testing.T) {
	for pkg, p := range packages(t) {
		if !p.documented {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

func TestAgentStaysSmall(t *testing.T) {
	all := packages(t)
	for at, pkg := range agentIs {
		for _, imported := range all[pkg].imports {
			target, ours := inModule(imported)
			external := strings.Contains(strings.Split(imported, "/")[0], ".")
			if ours && !slices.Contains(agentIs[:at], target) || external && !slices.Contains(agentMay, imported) {
				t.Errorf("%s imports %s, which the agent may not carry or which is above it in agentIs", pkg, imported)
			}
		}
	}
}

// builds are the directories of what makes bundles and test hosts: they stay out
// of the programs that ship.
var builds = []string{"internal/build", "internal/lab"}

func TestWhatShipsDoesNotImportWhatBuilds(t *testing.T) {
	all := packages(t)
	for _, program := range []string{"cmd/banger", "cmd/bangerd", "cmd/banger-agent"} {
		seen, todo := map[string]bool{}, []string{program}
		for len(todo) > 0 {
			pkg := todo[0]
			todo = todo[1:]
			if seen[pkg] {
				continue
			}
			seen[pkg] = true
			for _, imported := range all[pkg].imports {
				target, ours := inModule(imported)
				if !ours {
					continue
				}
				if slices.ContainsFunc(builds, func(dir string) bool { return target == dir || strings.HasPrefix(target, dir+"/") }) {
					t.Errorf("%s ships %s, which imports %s", program, pkg, target)
				}
				todo = append(todo, target)
			}
		}
		if len(seen) < 5 {
			t.Errorf("%s: found only %v", program, seen)
		}
	}
}

type pkg struct {
	imports    []string // of files that are not tests
	documented bool
}

// packages parses the files instead of asking `go list`: the test cache sees a
// file that a test reads, but not what a command does.
func packages(t *testing.T) map[string]pkg {
	t.Helper()
	found := map[string]pkg{}
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && file != "." && (entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") || file == "runtime") {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(file, ".go") {
			return nil
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := path.Dir(filepath.ToSlash(file))
		p := found[dir]
		p.documented = p.documented || parsed.Doc != nil
		for _, spec := range parsed.Imports {
			if imported, err := strconv.Unquote(spec.Path.Value); err == nil && !strings.HasSuffix(file, "_test.go") {
				p.imports = append(p.imports, imported)
			}
		}
		found[dir] = p
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func floorOf(pkg string) (int, bool) {
	for floor, row := range floors {
		if slices.Contains(row, pkg) {
			return floor, true
		}
	}
	return -1, false
}

func inModule(imported string) (string, bool) {
	if imported == "banger" {
		return ".", true
	}
	return strings.CutPrefix(imported, "banger/")
}

func related(a, b string) bool {
	return a == b || a != "." && b != "." && (strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/"))
}
