package script

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/internal/hostcmd"
)

// brief is a command that ends soon. The client of each is ended at random moments.
type brief struct {
	before, command string                              // lines of shell; N is the VM's name
	ok              func(vm banger.VM, there bool) bool // nil: see whole
}

var briefs = []brief{
	{"", "banger vm create --no-start --name N", nil},
	{"", "banger vm create --name N", nil},
	{"", "banger vm create --wait boot --name N", nil},
	{"banger vm create --no-start --name N", "banger vm start --wait boot N", stays},
	{"banger vm create --no-start --name N", "banger vm delete --yes N", nil},
	{"banger vm create --name N", "banger vm delete --yes --force N", nil},
	{"banger vm create --no-start --name N", "banger vm rename N other-N", nil},
	{"banger vm create --no-start --name N", "banger vm set --disk-size 96M --vcpu 2 N", stays},
	{"banger vm create --name N", "banger vm restart N", runs},
	{"banger vm create --name N", "banger vm set --vcpu 2 --apply N", runs},
	{"", "banger image import image-N rootfs.tar", nil},
	{"banger image import image-N rootfs.tar", "banger image delete image-N", nil},
}

// stays is right for a VM that no command deletes.
func stays(_ banger.VM, there bool) bool { return there }

// runs is right for a VM that ran, and that nothing stops for good.
func runs(vm banger.VM, there bool) bool { return there && vm.State == banger.Running }

// TestClientsEndAtRandom: whenever a client ends, and by whichever signal, its command was
// done or undone in the end: nothing is left of a half.
func TestClientsEndAtRandom(t *testing.T) {
	if _, err := (hostcmd.Host{}).Look("mke2fs"); err != nil {
		t.Skip("mke2fs is missing: apt-get install e2fsprogs")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("BANGER_TEST_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("BANGER_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	h := newHome(t)
	h.makeArchives()
	h.run("banger vm create --no-start --name first") // which copies the bundle
	h.run("banger vm delete --yes first")
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGKILL}
	n := 0
	for range briefRounds(t) {
		for _, b := range briefs {
			n++
			b.test(t, h, fmt.Sprintf("vm-%d", n), signals[random.IntN(len(signals))], random)
		}
	}
}

func briefRounds(t *testing.T) int {
	rounds, err := strconv.Atoi(os.Getenv("BANGER_TEST_ROUNDS"))
	if os.Getenv("BANGER_TEST_ROUNDS") == "" {
		return 2
	}
	if err != nil {
		t.Fatal(err)
	}
	return rounds
}

func (b brief) test(t *testing.T, h *home, vm string, signal syscall.Signal, random *rand.Rand) {
	t.Helper()
	named := func(text string) string { return strings.ReplaceAll(text, "N", vm) }
	if b.before != "" {
		h.run(named(b.before))
	}
	moment := time.Duration(random.Int64N(int64(200 * time.Millisecond)))
	c := h.client(t, named(b.command), false)
	<-time.After(moment) // the moment is what is drawn, nothing is waited for
	c.end(t, []syscall.Signal{signal})
	c.wait()
	wrong := b.wrong(t, h, vm)
	for end := time.Now().Add(time.Minute); wrong != "" && time.Now().Before(end); wrong = b.wrong(t, h, vm) {
		<-time.After(10 * time.Millisecond) // a daemon tells nobody that it has heard of no command
	}
	if wrong != "" {
		t.Fatalf("%s, %v after %v: %s", named(b.command), signal, moment, wrong)
	}
	h.run("banger vm delete --yes --force " + vm + " other-" + vm + " >/dev/null 2>&1; banger image delete image-" + vm + " >/dev/null 2>&1; true")
}

// wrong returns what is left of a half.
func (b brief) wrong(t *testing.T, h *home, name string) string {
	t.Helper()
	vm, there := h.show(t, name)
	other, renamed := h.show(t, "other-"+name)
	if renamed {
		vm = other
	}
	switch {
	case there && renamed:
		return "it has two names"
	case b.ok != nil && !b.ok(vm, there):
		return fmt.Sprintf("it is there: %v, %s", there, vm.State)
	case (there || renamed) && vm.State != banger.Stopped && vm.State != banger.Running:
		return fmt.Sprintf("it is %s", vm.State)
	}
	dirs := map[string]bool{}
	if there || renamed {
		dirs[string(vm.ID)] = true
	}
	entries, _ := os.ReadDir(filepath.Join(h.dir, "state/banger/vms"))
	for _, e := range entries {
		if !dirs[e.Name()] {
			return "there is a directory of nothing: " + e.Name()
		}
		delete(dirs, e.Name())
	}
	if len(dirs) > 0 {
		return "its directory is missing"
	}
	for _, pattern := range []string{"state/banger/images/.*", "state/banger/leases/*", "cache/banger/import*", "state/banger/vms/*/.*"} {
		if left, _ := filepath.Glob(filepath.Join(h.dir, pattern)); len(left) > 0 {
			return fmt.Sprintf("left: %v", left)
		}
	}
	images, _ := filepath.Glob(filepath.Join(h.dir, "state/banger/images/*"))
	if listed := strings.Count(h.run("banger image list | tail -n +2"), "\n"); listed != len(images) {
		return fmt.Sprintf("%d images are listed, of %v", listed, images)
	}
	known, _ := os.ReadFile(filepath.Join(h.dir, "state/banger/ssh/known_hosts"))
	lines := strings.Count(string(known), "\n")
	if lines != len(entries) || lines == 1 && !strings.Contains(string(known), ","+vm.Name+".vm ") {
		return fmt.Sprintf("known hosts are %q", known)
	}
	return ""
}
