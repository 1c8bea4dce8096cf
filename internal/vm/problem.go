package vm

import (
	"context"
	"fmt"
	"slices"
	"syscall"

	"banger"
	"banger/internal/disk"
	"banger/internal/guest/wire"
	"banger/internal/vmm"
)

// watchDisks keeps the run's disk errors current until ctx ends.
func (r *run) watchDisks(ctx context.Context) {
	for {
		errs, changed := r.machine.DiskErrors()
		r.o.mu.Lock()
		was := r.disks
		if r.disks = errs; !slices.Equal(was, errs) {
			r.o.tell()
		}
		r.o.mu.Unlock()
		for _, err := range errs {
			if !err.Paused { // the guest has been told
				r.o.suspect()
			}
			if !slices.Contains(was, err) {
				r.o.log().Warn("a disk fails", "disk", err.Role, "err", err.Errno, "paused", err.Paused)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// problems returns what keeps the guest from working. The caller holds the
// owner's mu.
func (r *run) problems() []banger.Problem {
	var all []banger.Problem
	for _, e := range r.disks {
		all = append(all, r.diskProblem(e))
	}
	for _, d := range r.hello.Disks {
		name := map[string]string{wire.LabelOverlay: "overlay", wire.LabelWork: "work"}[d.Label]
		text := fmt.Sprintf("the file system on the %s disk has %d errors", name, d.Errors)
		if d.Why != "" {
			text += ": " + d.Why
		}
		all = append(all, banger.Problem{Kind: banger.ProblemDisk, Disk: name, Text: text, Fix: "banger vm restart " + r.o.row.Name + ", which checks its disks"})
	}
	if r.hello.Init == wire.InitEmergency {
		all = append(all, banger.Problem{Kind: banger.ProblemBoot, Text: r.emergency(), Fix: "banger vm ssh " + r.o.row.Name})
	}
	return append(all, r.networkProblems()...)
}

func (r *run) diskProblem(e vmm.DiskError) banger.Problem {
	p := banger.Problem{Kind: banger.ProblemDisk, Disk: string(e.Role), Text: fmt.Sprintf("the host cannot read or write the %v", e)}
	switch full := e.Errno == syscall.ENOSPC || e.Errno == syscall.EDQUOT; {
	case full:
		on := disk.MountPoint(r.o.v.Dirs.VMs())
		p.Text, p.Fix = fmt.Sprintf("there is no space on %s for the %v", on, e.Role), "free space on "+on
	default:
		p.Fix = "banger vm restart " + r.o.row.Name + ", which checks its disks"
	}
	if e.Paused {
		p.Kind, p.Text = banger.ProblemPaused, "the guest is paused: "+p.Text
	}
	return p
}

// emergency describes a boot that ended in systemd's emergency or rescue mode.
func (r *run) emergency() string {
	text := "the boot ended in emergency mode"
	if r.hello.InitWhy != "" {
		text += ": " + r.hello.InitWhy
	}
	return text
}

// paused returns an error if the guest is paused: it would not hear a request.
func (r *run) paused() error {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	for _, p := range r.problems() {
		if p.Kind == banger.ProblemPaused {
			return &banger.Error{Kind: banger.Unready, What: fmt.Sprintf("VM %q: %s", r.o.row.Name, p.Text), Fix: p.Fix}
		}
	}
	return nil
}
