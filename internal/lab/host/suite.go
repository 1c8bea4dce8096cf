package host

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/hostcmd"
)

// Suite is a package whose tests run in the host.
type Suite struct {
	Name    string
	Package string
	User    string // who runs them: User or Superuser
	Tests   string // a regular expression of the tests to run; empty: all
	Short   string // the same for a short run
}

// Suites are all suites. The last one has what is different for root.
var Suites = []Suite{
	{Name: "driver", Package: "internal/vmm/firecracker", User: User, Tests: "^(TestContract$|TestReal)", Short: "^(TestContract$|TestReal)"},
	{Name: "qemu", Package: "internal/vmm/qemu", User: User, Tests: "^(TestContract|TestReconnect|TestDaemonKilled)$", Short: "^TestContract$/^Guest$"},
	{Name: "machines", Package: "internal/lab", User: User, Short: "^(TestExec|TestChange|TestKilledVMM|TestEndsWithoutInit)$"},
	{Name: "root", Package: "internal/lab", User: Superuser, Tests: "^(TestBridge|TestWholeHost|TestNamesByDropIn|TestPorts|TestCopy)$", Short: "^TestWholeHost$/^names$"},
}

// Programs builds what goes into the host: banger's programs, laid out as in a checkout,
// and the tests of the suites. It returns their directory.
func (l *Lab) Programs(ctx context.Context, root string, suites []Suite) (string, error) {
	tree := filepath.Join(l.run, "programs")
	if err := os.Mkdir(tree, 0o700); err != nil {
		return "", err
	}
	l.say("build the programs and %d suites of tests", len(suites))
	build := func(args ...string) error {
		_, err := l.Runner.Run(ctx, hostcmd.Cmd{
			Argv: append([]string{"go"}, args...), Dir: root, Env: append(os.Environ(), "CGO_ENABLED=0"),
		})
		return err
	}
	common := []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"}
	programs := append([]string{"build"}, append(common, tree+"/", "./cmd/banger", "./cmd/bangerd", "./cmd/banger-agent")...)
	if err := build(programs...); err != nil {
		return "", fmt.Errorf("build the programs: %w", err)
	}
	// The guest of the driver's contract, since the host has no Go to build it.
	if err := build(append(append([]string{"build"}, common...), filepath.Join(tree, "guest"), "./internal/vmm/testdata/init")...); err != nil {
		return "", fmt.Errorf("build the contract's guest: %w", err)
	}
	for name, pkg := range map[string]string{"bare": "./internal/lab/bare", "bare-init": "./internal/lab/bare/init"} {
		if err := build(append(append([]string{"build"}, common...), filepath.Join(tree, name), pkg)...); err != nil {
			return "", fmt.Errorf("build the bare VM's programs: %w", err)
		}
	}
	built := map[string]bool{}
	for _, suite := range suites {
		dir := filepath.Join(tree, suite.Package)
		if built[dir] {
			continue
		}
		built[dir] = true
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		argv := append([]string{"test", "-c", "-tags", "vm"}, append(common, filepath.Join(dir, "suite.test"), "./"+suite.Package)...)
		if err := build(argv...); err != nil {
			return "", fmt.Errorf("build the tests of %s: %w", suite.Package, err)
		}
	}
	return tree, copyFiles(root, tree)
}

// filesOfTests are what tests read besides the programs.
var filesOfTests = []string{"README.md", "internal/build/image/files/etc/systemd/system/banger-docker-restart.service"}

func copyFiles(from, to string) error {
	for _, name := range filesOfTests {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// surroundings tell the tests that the host has only Firecracker, is slow, is theirs
// alone, and has this outside of it.
const surroundings = "BANGER_TEST_DRIVER=firecracker BANGER_TEST_PATIENCE=5 BANGER_TEST_SMALL=/small BANGER_TEST_OWN_HOST=1 BANGER_TEST_OUTSIDE=outside.example BANGER_TEST_FIRECRACKER=" + Root + "/runtime/firecracker"

// handedOn returns the tests' settings in this process's environment, for the host.
func handedOn() (words string) {
	for _, name := range []string{"BANGER_TEST_ROUNDS", "BANGER_TEST_SEED"} {
		if value := os.Getenv(name); value != "" {
			words += " " + name + "=" + quote(value)
		}
	}
	return words
}

// Test runs a suite in the host and prints to out what go test -v would. passed reports
// whether all tests passed.
func (h *Host) Test(ctx context.Context, suite Suite, tests string, out io.Writer) (passed bool, err error) {
	return h.run(ctx, suite, "-test.parallel=1 -test.run="+quote(tests), out)
}

// Bench runs benchmarks of a suite in the host once each.
func (h *Host) Bench(ctx context.Context, suite Suite, benchmarks string, out io.Writer) (passed bool, err error) {
	return h.run(ctx, suite, "-test.run='^$' -test.benchtime=1x -test.bench="+quote(benchmarks), out)
}

// Compare runs scripts/compare in the host, as root, which husker needs. passed reports whether something could run.
func (h *Host) Compare(ctx context.Context, rounds int, rivals []string, out io.Writer) (passed bool, err error) {
	line := fmt.Sprintf("cd %s && exec env TMPDIR=%s/tmp sh scripts/compare/compare.sh --rounds %d", Root, Root, rounds)
	for _, rival := range rivals {
		line += " " + quote(rival)
	}
	return h.timed(ctx, Superuser, line, out)
}

func (h *Host) run(ctx context.Context, suite Suite, flags string, out io.Writer) (passed bool, err error) {
	line := fmt.Sprintf("cd %s/%s && exec env TMPDIR=%s/tmp BANGER_TEST_GUEST=%s/guest BANGER_TEST_BARE=%s %s ./suite.test -test.v -test.timeout=3h %s",
		Root, suite.Package, Root, Root, Root, surroundings+handedOn(), flags)
	return h.timed(ctx, suite.User, line, out)
}

// timed runs a command, and checks the host's clock after it.
func (h *Host) timed(ctx context.Context, user, line string, out io.Writer) (passed bool, err error) {
	clock, err := h.startClock(ctx)
	if err != nil {
		return false, err
	}
	status, err := h.Shell(ctx, user, line, out)
	if err != nil {
		return false, err
	}
	return status == 0, clock.check(ctx)
}

func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
