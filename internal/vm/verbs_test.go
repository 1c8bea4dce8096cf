package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"banger"
	"banger/internal/vmm/vmmtest"
)

// verb is an operation on the VM otter, each of whose steps fails once in
// TestEveryStepFails and is a daemon's last in TestKilledAtEveryStep.
type verb struct {
	before func(*world) // what there is besides the VM
	from   banger.State
	do     func(context.Context, *VMs) error

	// fails are the states that a step which fails may leave, where there is no way
	// back: then the verb does the rest when it is asked again. For all others
	// nothing may have changed but what stays.
	fails []banger.State
	stays *regexp.Regexp
	// despite is a step that is made good when it fails.
	despite string

	dies   []banger.State // what a daemon that is killed may leave; none: it is not killed
	ending banger.Ending  // of a VM that is stopped then
}

const (
	absent    banger.State  = "absent"
	anyEnding banger.Ending = "any"
)

var (
	// grown is what is told of disks: they do not shrink again.
	grown = regexp.MustCompile(`(?m)(overlay|work disk) \S+|/(overlay|work)\.ext4 .*$`)
	// brought are the parts of the bundle: they are everybody's.
	brought = regexp.MustCompile(`(?m)^(images|kernels)/.*\n`)
)

var verbs = map[string]verb{
	"create": {from: absent, do: create,
		dies: []banger.State{absent, banger.Stopped, banger.Running}, ending: banger.EndedNever},
	"create the first": {before: (*world).unbrought, from: absent, do: func(ctx context.Context, v *VMs) error {
		_, err := v.CreateVM(ctx, banger.CreateVM{Name: "otter", NoStart: true}, nil)
		return err
	}, stays: brought, dies: []banger.State{absent, banger.Stopped}, ending: banger.EndedNever},
	"start": {from: banger.Stopped, do: func(ctx context.Context, v *VMs) error {
		_, err := v.StartVM(ctx, "otter", banger.StartVM{}, nil)
		return err
	}, dies: []banger.State{banger.Stopped, banger.Running}, ending: banger.EndedPoweroff},
	// A guest that was asked to stop does so, whoever fails.
	"stop": {from: banger.Running, do: func(ctx context.Context, v *VMs) error {
		_, err := v.StopVM(ctx, "otter", banger.StopVM{}, nil)
		return err
	}, fails: []banger.State{banger.Running, banger.Stopped}, despite: "ask the guest to shut down",
		dies: []banger.State{banger.Stopped, banger.Running}, ending: banger.EndedPoweroff},
	"stop by force": {from: banger.Running, do: func(ctx context.Context, v *VMs) error {
		_, err := v.StopVM(ctx, "otter", banger.StopVM{Force: true}, nil)
		return err
	}, fails: []banger.State{banger.Running, banger.Stopped},
		dies: []banger.State{banger.Stopped, banger.Running}, ending: anyEnding},
	"kill": {from: banger.Running, do: func(ctx context.Context, v *VMs) error {
		_, err := v.KillVM(ctx, "otter", banger.KillVM{}, nil)
		return err
	}, fails: []banger.State{banger.Running, banger.Stopped},
		dies: []banger.State{banger.Stopped, banger.Running}, ending: anyEnding},
	"restart": {from: banger.Running, do: restart,
		fails: []banger.State{banger.Running, banger.Stopped}, despite: "ask the guest to shut down",
		dies: []banger.State{banger.Stopped, banger.Running}, ending: banger.EndedPoweroff},
	"restart what is stopped": {from: banger.Stopped, do: restart},
	"rename": {from: banger.Stopped, do: func(ctx context.Context, v *VMs) error {
		vm, err := v.RenameVM(ctx, "otter", banger.RenameVM{Name: "badger"}, nil)
		if err == nil && vm.Name != "badger" {
			err = errors.New("it is still " + vm.Name)
		}
		return err
	}, dies: []banger.State{banger.Stopped}, ending: banger.EndedPoweroff},
	"fsck": {from: banger.Stopped, do: func(ctx context.Context, v *VMs) error {
		_, err := v.FsckVM(ctx, "otter", banger.FsckVM{}, nil)
		return err
	}, dies: []banger.State{banger.Stopped}, ending: banger.EndedPoweroff},
	"set": {from: banger.Stopped, do: setMore(false), stays: grown,
		dies: []banger.State{banger.Stopped}, ending: banger.EndedPoweroff},
	"set while it runs": {from: banger.Running, do: setMore(false), stays: grown,
		dies: []banger.State{banger.Running}, ending: anyEnding},
	"set memory while it runs": {from: banger.Running, do: setLess,
		dies: []banger.State{banger.Running}, ending: anyEnding},
	"set by a restart": {from: banger.Running, do: setMore(true), stays: grown, despite: "ask the guest to shut down",
		dies: []banger.State{banger.Stopped, banger.Running}, ending: banger.EndedPoweroff},
	"delete": {from: banger.Stopped, do: func(ctx context.Context, v *VMs) error {
		return v.DeleteVM(ctx, "otter", banger.DeleteVM{}, nil)
	}, fails: []banger.State{banger.Stopped, absent},
		dies: []banger.State{banger.Stopped, absent}, ending: banger.EndedPoweroff},
	"delete by force": {from: banger.Running, do: func(ctx context.Context, v *VMs) error {
		return v.DeleteVM(ctx, "otter", banger.DeleteVM{Force: true}, nil)
	}, fails: []banger.State{banger.Running, banger.Stopped, absent},
		dies: []banger.State{banger.Running, banger.Stopped, absent}, ending: anyEnding},
	"the guest's reboot": {from: banger.Running, do: reboot,
		dies: []banger.State{banger.Running}, ending: anyEnding},
}

func create(ctx context.Context, v *VMs) error {
	_, err := v.CreateVM(ctx, banger.CreateVM{Name: "otter"}, nil)
	return err
}

func restart(ctx context.Context, v *VMs) error {
	_, err := v.RestartVM(ctx, "otter", banger.StopVM{}, nil)
	return err
}

// setMore gives the VM larger disks, one that is stopped other memory as well, and
// one that may be restarted also another number of CPUs, which takes that.
func setMore(restart bool) func(context.Context, *VMs) error {
	return func(ctx context.Context, v *VMs) error {
		vm, err := v.ShowVM(ctx, "otter")
		if err != nil {
			return err
		}
		opts := banger.SetVM{Disk: vm.Disk + 8*banger.MiB, Overlay: vm.Overlay + 8*banger.MiB, Apply: restart}
		if restart {
			opts.VCPUs = 3 - vm.VCPUs
		}
		if restart || vm.State == banger.Stopped {
			opts.Memory = 500*banger.MiB - vm.Memory
		}
		_, err = v.SetVM(ctx, "otter", opts, nil)
		return err
	}
}

// setLess gives a VM that runs less memory, or a little more again.
func setLess(ctx context.Context, v *VMs) error {
	vm, err := v.ShowVM(ctx, "otter")
	if err != nil {
		return err
	}
	less := smallestMemory
	if vm.Memory == less {
		less += 8 * banger.MiB
	}
	_, err = v.SetVM(ctx, "otter", banger.SetVM{Memory: less}, nil)
	return err
}

// reboot makes the guest do so, and waits until it is back.
func reboot(ctx context.Context, v *VMs) error {
	conn, err := v.DialVM(ctx, "otter", vmmtest.PortAct)
	if err != nil {
		return err
	}
	defer conn.Close()
	was, err := v.ShowVM(ctx, "otter")
	if err != nil {
		return err
	}
	fmt.Fprintln(conn, "reboot")
	for {
		now, err := v.ShowVM(ctx, "otter")
		if err == nil && now.State == banger.Stopped && now.EndingBy != "" {
			err = errors.New(now.EndingBy)
		}
		if err != nil || now.State.Up() && now.PID != was.PID {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// unbrought gives the world a bundle of which no VM has needed anything yet.
func (w *world) unbrought() {
	w.t.Helper()
	if w.Bundle == nil {
		w.bundled()
	}
	err := errors.Join(os.RemoveAll(string(w.Dirs.Kernel(w.Installed.Kernel.ID))), os.RemoveAll(string(w.Dirs.Image(w.Installed.Image.ID))))
	if err != nil {
		w.t.Fatal(err)
	}
}

// looks are the world as it is with the VM in each state.
func (w *world) looks(v verb) map[banger.State]string {
	w.t.Helper()
	if v.before != nil {
		v.before(w)
	}
	looks := map[banger.State]string{}
	for _, state := range []banger.State{banger.Stopped, banger.Running, absent} {
		w.bring(state)
		looks[state] = w.anonymous()
	}
	w.begin(v)
	return looks
}

// begin brings the world to where a verb begins.
func (w *world) begin(v verb) {
	w.t.Helper()
	w.bring(v.from)
	if v.before != nil {
		v.before(w)
	}
}

// same says whether two looks of the world differ in nothing but what stays.
func (v verb) same(one, other string) bool {
	if v.stays == nil {
		return one == other
	}
	return v.stays.ReplaceAllString(one, "") == v.stays.ReplaceAllString(other, "")
}
