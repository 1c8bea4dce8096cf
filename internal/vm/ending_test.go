package vm

import (
	"os"
	"path/filepath"
	"testing"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/vm/console"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// TestEndingsToldApart: the guest's own words come first, then the kernel's on
// the console, then what the VMM saw.
func TestEndingsToldApart(t *testing.T) {
	const bye = "banger-bye mine "
	for name, c := range map[string]struct {
		console string
		exit    vmm.Reason
		killed  bool
		broken  string
		want    banger.Ending
		detail  string
	}{
		"poweroff":             {bye + "poweroff\n[ 9.1] reboot: Power down\n", vmm.ReasonPoweroff, false, "", banger.EndedPoweroff, ""},
		"reboot":               {bye + "reboot\r\n[ 9.1] reboot: Restarting system\r\n", vmm.ReasonReset, false, "", banger.EndedReboot, ""},
		"halt by resetting":    {bye + "halt\n[ 9.1] reboot: Restarting system\n", vmm.ReasonReset, false, "", banger.EndedHalt, ""},
		"errors on a disk":     {bye + "poweroff\n", vmm.ReasonPoweroff, false, "the work disk has errors", banger.EndedUnclean, "the work disk has errors"},
		"errors, and a reboot": {bye + "reboot\n", vmm.ReasonReset, false, "the work disk has errors", banger.EndedReboot, ""},
		"by the agent":         {bye + "poweroff the init has crashed\n", vmm.ReasonPoweroff, false, "", banger.EndedPoweroff, "the init has crashed"},
		"another boot's word":  {"banger-bye old poweroff\n", vmm.ReasonReset, false, "", banger.EndedCrashed, "the guest was reset and gave no reason"},
		"poweroff -f":          {"[ 9.1] reboot: Power down\n", vmm.ReasonPoweroff, false, "", banger.EndedUnclean, "the guest switched itself off without unmounting its disks"},
		"reboot -f":            {"[ 9.1] reboot: Restarting system\n", vmm.ReasonReset, false, "", banger.EndedUnclean, "the guest reset itself without unmounting its disks"},
		"halt -f, then a stop": {"[ 9.1] reboot: System halted\n", vmm.ReasonKilled, true, "", banger.EndedUnclean, "the guest halted without unmounting its disks"},
		"poweroff -f where a VM cannot be switched off": {"[ 9.1] reboot: Power off not available: System halted instead\r\n", vmm.ReasonKilled, false, "", banger.EndedUnclean, "the guest switched itself off without unmounting its disks"},
		"panic":                 {"[ 9.1] Kernel panic - not syncing: sysrq triggered crash\n", vmm.ReasonReset, false, "", banger.EndedCrashed, "kernel panic: sysrq triggered crash"},
		"killed by banger":      {"", vmm.ReasonKilled, true, "", banger.EndedKilled, "banger killed the VMM"},
		"reset without a word":  {"", vmm.ReasonReset, false, "", banger.EndedCrashed, "the guest was reset and gave no reason"},
		"unwatched, by console": {"[ 9.1] reboot: Restarting system\n", "", false, "", banger.EndedUnclean, "the guest reset itself without unmounting its disks"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "console.log")
			if err := os.WriteFile(path, []byte(c.console), 0o600); err != nil {
				t.Fatal(err)
			}
			s := seen{exit: vmm.Exit{Reason: c.exit}, killed: c.killed, broken: c.broken}
			if got, detail := ending(s, console.Read(path, "mine")); got != c.want || detail != c.detail {
				t.Errorf("got %q %q, want %q %q", got, detail, c.want, c.detail)
			}
		})
	}
}

// TestEndingByTheVMMsWord: what the VMM says beyond that counts too, and one that
// says nothing of an end nobody saw is not to blame for it.
func TestEndingByTheVMMsWord(t *testing.T) {
	for exit, want := range map[vmm.Exit]string{
		{Reason: vmm.ReasonReset, Detail: "triple fault"}: "crashed the guest was reset and gave no reason (triple fault)",
		{}: "unwatched it ended while no daemon ran, and left no trace",
	} {
		if got, detail := ending(seen{exit: exit}, console.Words{}); string(got)+" "+detail != want {
			t.Errorf("%+v: got %q %q", exit, got, detail)
		}
	}
}

// TestEndingByTheHostsBoot: a VMM that left no word was killed, unless the host went
// down with it.
func TestEndingByTheHostsBoot(t *testing.T) {
	begun := newBoot()
	if begun.Host == "" {
		t.Fatal("this host has no boot id")
	}
	defer func(was string) { hostBootID = was }(hostBootID)
	another := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(another, []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]banger.Ending{hostBootID: banger.EndedVMMDied, another: banger.EndedHostDown, another + "-none": banger.EndedHostDown} {
		hostBootID = file
		if got, detail := ending(seen{host: begun.Host}, console.Words{}); got != want || detail == "" {
			t.Errorf("%s: got %q %q, want %s", file, got, detail, want)
		}
	}
}

// TestByeSaysWhy: an agent that ended the machine itself has given its reason.
func TestByeSaysWhy(t *testing.T) {
	r := bareRun(t, hasty{}, boot{Identity: guest.Identity{Nonce: "mine"}})
	r.heard(wire.Event{Kind: wire.EventBye, Verb: wire.Poweroff, Nonce: "mine", Why: "it \x1b[2Jslept"})
	if got, detail := ending(r.seen, console.Words{}); got != banger.EndedPoweroff || detail != "it [2Jslept" {
		t.Errorf("got %q %q", got, detail)
	}
}

// A guest whose kernel says that it has halted is ended, unless its agent still
// answers: then somebody else has written that.
func TestHaltedGuest(t *testing.T) {
	const halted = "[    9.100000] reboot: System halted\n"
	w := newWorld(t)
	w.fake.SetFaults(vmmtest.IgnoresPing)
	silent := w.create("otter")
	w.fake.SetFaults()
	lively := w.create("wombat")
	for _, vm := range []banger.VM{lively, silent} {
		log, err := os.OpenFile(vm.Console, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		if _, err := log.WriteString(halted); err != nil {
			t.Fatal(err)
		}
	}
	w.until("the end", func() bool { return w.show1("otter").State == banger.Stopped })
	if vm := w.show1("otter"); vm.Ending != banger.EndedUnclean || vm.EndingBy != "the guest halted without unmounting its disks" {
		t.Errorf("ended by %q %q", vm.Ending, vm.EndingBy)
	}
	if vm := w.show1("wombat"); !vm.State.Up() || vm.PID != lively.PID {
		t.Errorf("%+v", vm)
	}
	if vm, err := w.StopVM(t.Context(), "wombat", banger.StopVM{}, nil); err != nil || vm.Ending != banger.EndedPoweroff {
		t.Errorf("%v, %+v", err, vm)
	}
}
