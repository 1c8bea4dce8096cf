//go:build vm

package lab

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"banger"
)

// A guest's boot and end are not bound to a step, so states and steps are compared
// apart. Each list is what events tell of a VM that is created, reboots, is stopped
// and deleted.
var (
	wholeStates = strings.Fields("creating stopped starting booting running stopping stopped starting booting running stopping stopped deleting gone")
	wholeSteps  = strings.Split("create: reserve the name, create: create disks, create: record, "+
		"create: lock, create: check disks, create: connect the network, create: configure, create: launch, create: boot, create ended, "+
		"reboot: lock, reboot: check disks, reboot: connect the network, reboot: configure, reboot: launch, reboot: boot, reboot ended, "+
		"stop: ask the guest to shut down, stop: shutting down, stop ended, delete: mark, delete: remove disks, delete ended", ", ")
)

// wholeLives reads the events of VMs that do not exist yet. What it returns waits
// until they are deleted, and checks that they had whole lives.
func (h *home) wholeLives(t *testing.T, names ...string) func() {
	t.Helper()
	args := []string{"events", "--json"}
	for _, name := range names {
		args = append(args, "--vm", name)
	}
	cmd := h.command(t.Context(), args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := json.NewDecoder(out)
	next := func() (e banger.Event) {
		t.Helper()
		if err := lines.Decode(&e); err != nil {
			t.Fatal(err)
		}
		return e
	}
	for next().Kind != banger.EventReady {
	}
	return func() {
		t.Helper()
		states, steps := map[string][]string{}, map[string][]string{}
		for ends := 0; ends < len(names); {
			e := next()
			if vm := e.VM; vm != nil {
				state := string(vm.State)
				if e.Gone {
					state = "gone"
				}
				if told := states[vm.Name]; len(told) == 0 || told[len(told)-1] != state {
					states[vm.Name] = append(told, state)
				}
			}
			if op := e.Operation; op != nil && op.Ended {
				steps[op.Name] = append(steps[op.Name], string(op.Verb)+" ended")
				if op.Verb == banger.Delete {
					ends++
				}
			} else if op != nil && op.Step != nil && op.Step.Done {
				steps[op.Name] = append(steps[op.Name], string(op.Verb)+": "+op.Step.Step)
			}
		}
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
		for _, name := range names {
			if !slices.Equal(states[name], wholeStates) || !slices.Equal(steps[name], wholeSteps) {
				t.Errorf("of %s is told\n%q, %q\nnot\n%q, %q", name, states[name], steps[name], wholeStates, wholeSteps)
			}
		}
	}
}
