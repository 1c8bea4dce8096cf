package vm

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/disk"
	"banger/internal/guest/wire"
	"banger/internal/store"
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// seen is what the host saw and heard of the end of a run.
type seen struct {
	exit   vmm.Exit    // what the VMM told; its reason is empty when nobody saw it end
	bye    wire.Verb   // what the guest said
	why    string      // why its agent ended the machine in place of the init
	killed bool        // banger killed the VMM
	sent   unix.Signal // the last signal that could have ended the VMM
	host   string      // the host's boot when the VMM was launched
	broken string      // which disk has errors; empty: none has
}

const switchedOff = "the guest switched itself off without unmounting its disks"

// ending returns how a run ended, from what was seen and what the console says:
// the guest's own words count first, then the kernel's, then what the VMM saw.
func ending(s seen, words console.Words) (banger.Ending, string) {
	verb, why := s.bye, s.why
	if verb == "" {
		verb, why = words.Bye, words.Why
	}
	clean := map[wire.Verb]banger.Ending{wire.Reboot: banger.EndedReboot, wire.Halt: banger.EndedHalt, wire.Poweroff: banger.EndedPoweroff}[verb]
	switch {
	case clean == banger.EndedReboot:
		return clean, why // its disks are checked before it boots again
	case clean != "" && s.broken != "":
		return banger.EndedUnclean, s.broken
	case clean != "":
		return clean, why
	case words.Kernel == console.KernelHalted:
		return banger.EndedUnclean, "the guest halted without unmounting its disks"
	case words.Kernel == console.KernelOff:
		return banger.EndedUnclean, switchedOff
	case s.sent != 0 && s.exit.Reason != vmm.ReasonPoweroff && s.exit.Reason != vmm.ReasonReset:
		return banger.EndedKilled, "the VMM ended after it was sent " + signalName(s.sent)
	case s.killed || s.exit.Reason == vmm.ReasonKilled:
		return banger.EndedKilled, "banger killed the VMM"
	case words.Failed != nil:
		return banger.EndedUnclean, fmt.Sprintf("boot step %q: %s", words.Failed.Step, words.Failed.Why)
	case words.Panic != "":
		return banger.EndedCrashed, words.Panic
	case words.Kernel == console.KernelReset:
		return banger.EndedUnclean, "the guest reset itself without unmounting its disks"
	}
	return endingByExit(s)
}

func endingByExit(s seen) (banger.Ending, string) {
	switch s.exit.Reason {
	case vmm.ReasonPoweroff:
		return banger.EndedUnclean, switchedOff
	case vmm.ReasonReset:
		return banger.EndedCrashed, "the guest was reset and gave no reason" + in(s.exit.Detail)
	case vmm.ReasonSignal, vmm.ReasonFailed:
		return banger.EndedVMMDied, printable(s.exit.Detail)
	case vmm.ReasonUnknown:
		return banger.EndedVMMDied, "the VMM ended and gave no reason; another daemon had started it" + in(s.exit.Detail)
	}
	if s.host != "" && s.host == hostBoot() {
		return banger.EndedVMMDied, "the VMM was killed while no daemon ran; the host has not rebooted since"
	}
	return banger.EndedHostDown, "it ended while no daemon ran, and left no trace"
}

// in puts a detail, if there is one, in parentheses.
func in(detail string) string {
	if detail == "" {
		return ""
	}
	return " (" + printable(detail) + ")"
}

// broken describes the errors of a VM's disks, which the guest or this daemon has
// recorded; it is empty for healthy ones.
func (o *owner) broken() string {
	for _, d := range disksOf(o.dir()) {
		if n, err := disk.Errors(d.path); err == nil && n > 0 {
			return fmt.Sprintf("the file system on the %s disk has %d errors", d.name, n)
		}
	}
	if o.suspected() {
		return "a disk had errors while the VM ran"
	}
	return ""
}

// watch waits for the end of a run and records it. A guest that asked for a
// reboot is started again.
func (o *owner) watch(ctx context.Context, r *run) {
	select {
	case <-r.machine.Ended():
	case <-ctx.Done():
		<-r.tended
		r.dialer.Close()
		r.machine.Close()
		return
	}
	<-r.tended
	r.dialer.Close()
	o.mu.Lock()
	s := r.seen
	o.mu.Unlock()
	s.exit, s.broken = r.machine.Exit(), o.broken()
	how, detail := ending(s, console.Read(o.dir().Console(), r.boot.Nonce))
	log := o.log()
	log.Info("VM ended", "ending", how, "detail", detail, "exit", s.exit)
	r.machine.Close()
	o.disconnect(context.WithoutCancel(ctx), r)
	if err := o.record(context.WithoutCancel(ctx), how, detail); err != nil {
		log.Error("record the end", "err", err)
	}
	if how == banger.EndedReboot {
		o.v.task(o.reboot)
	}
}

// record writes an ending down and makes the VM stopped. Unless the guest wants
// to come back, the VM is wanted no longer. The boot's secrets go last: they are
// how the ending is told. The VM is stopped even if a full disk keeps that off the
// record.
func (o *owner) record(ctx context.Context, how banger.Ending, detail string) error {
	verb, at := banger.Ended, time.Now().UTC()
	if how == banger.EndedReboot {
		verb = banger.Rebooted
	}
	defer o.happen(verb)
	err := o.save(func() error { return o.v.Store.SetEnding(ctx, o.id, how, detail, at) },
		func(row *store.VM) { row.Ending, row.EndingBy, row.EndedAt = how, detail, at })
	if err == nil && verb == banger.Ended {
		err = o.want(ctx, banger.WantStopped)
	}
	if err != nil {
		return err
	}
	return forgetBoot(o.dir())
}
