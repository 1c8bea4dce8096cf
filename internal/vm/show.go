package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"banger"
	"banger/internal/operation"
)

// ListVMs implements banger.VMService, in the order of names.
func (v *VMs) ListVMs(context.Context) ([]banger.VM, error) {
	var list []banger.VM
	for _, o := range v.all() {
		list = append(list, o.show())
	}
	return list, nil
}

// SummarizeVMs implements banger.VMService, in the order of names.
func (v *VMs) SummarizeVMs(context.Context) ([]banger.VMSummary, error) {
	var list []banger.VMSummary
	for _, o := range v.all() {
		vm := o.show()
		list = append(list, banger.VMSummary{Name: vm.Name, State: vm.State, Image: vm.Image, VCPUs: vm.VCPUs,
			Memory: vm.Memory, Disk: vm.Disk, CreatedAt: vm.CreatedAt, Ending: vm.Ending, Problems: vm.Problems})
	}
	return list, nil
}

// ShowVM implements banger.VMService.
func (v *VMs) ShowVM(_ context.Context, ref string) (banger.VM, error) {
	o, err := v.find(ref)
	if err != nil {
		return banger.VM{}, err
	}
	return o.show(), nil
}

// snapshot returns an event for each VM.
func (v *VMs) snapshot(context.Context) ([]banger.Event, error) {
	var events []banger.Event
	for _, o := range v.all() {
		o.mu.Lock()
		vm := o.describe()
		events = append(events, banger.Event{Seq: v.Events.Seq(), Time: time.Now().UTC(), Kind: banger.EventVM, VM: &vm})
		o.mu.Unlock()
	}
	return events, nil
}

// show describes the VM. One whose VMM is just ending is shown as stopping, though
// its end has not been noticed yet.
func (o *owner) show() banger.VM {
	o.mu.Lock()
	vm, r := o.describe(), o.run
	o.mu.Unlock()
	if vm.State.Up() && r.dying() {
		vm.State = banger.Stopping
	}
	return vm
}

// describe describes the VM as it was when something last changed. The caller
// holds mu.
func (o *owner) describe() banger.VM {
	row, dir := o.row, o.dir()
	vm := banger.VM{
		ID: row.ID, Name: row.Name, State: o.state, Image: row.Image, ImageID: row.ImageID, Kernel: row.Kernel, KernelID: row.KernelID,
		VCPUs: row.VCPUs, Memory: row.Memory, Overlay: row.Overlay, Disk: row.Disk,
		Driver: row.Driver, Network: o.describeNetwork(), Ports: publishes(row), CreatedAt: row.CreatedAt,
		Temporary: row.Lease != "",
		Ending:    row.Ending, EndingBy: row.EndingBy, EndedAt: row.EndedAt,
		Dir: string(dir), Console: dir.Console(), VMMLog: dir.VMMLog(row.Driver), SSHKey: o.v.sshKey, KnownHosts: o.v.knownHosts,
	}
	if r := o.run; r != nil {
		vm.PID, vm.StartedAt, vm.Launched, vm.BootID = r.machine.PID(), r.boot.StartedAt, r.launched, r.hello.BootID
		vm.Problems = r.problems()
	}
	return vm
}

// agentWait is how long a guest's agent may be silent. That is plenty for one that runs,
// and an agent may also be about to start. One that is busy is waited for.
const agentWait = 60 * time.Second

// DialVM implements banger.VMService. Only the wait for a silent agent is bounded,
// not the stream.
func (v *VMs) DialVM(ctx context.Context, ref string, port int) (net.Conn, error) {
	return v.dial(ctx, ref, port, agentWait)
}

func (v *VMs) dial(ctx context.Context, ref string, port int, wait time.Duration) (_ net.Conn, err error) {
	o, err := v.find(ref)
	if err != nil {
		return nil, err
	}
	if port < 1 || port > 65535 {
		return nil, banger.Invalidf("use a port from 1 to 65535", "%d is not a port", port)
	}
	if err := o.settle(ctx, banger.Reach); err != nil {
		return nil, err
	}
	r := o.running()
	if r == nil {
		return nil, banger.Refuse(banger.Reach, o.name(), banger.Stopped)
	}
	if err := r.paused(); err != nil {
		return nil, err
	}
	dialing, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	go r.whileItAnswers(dialing, wait, giveUp)
	conn, err := r.machine.Dial(dialing, port)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() == nil && dialing.Err() != nil, ctx.Err() == context.DeadlineExceeded:
		err = &banger.Error{Kind: banger.TimedOut, Why: errors.New("the guest's agent does not answer"), Fix: "banger vm logs " + o.name()}
	default:
		err = fmt.Errorf("port %d: %w", port, err)
	}
	return nil, operation.Name(err, "vm", banger.Reach, o.name())
}

// whileItAnswers calls giveUp once the agent has not answered for a time.
func (r *run) whileItAnswers(ctx context.Context, silence time.Duration, giveUp context.CancelCauseFunc) {
	for {
		pause := time.NewTimer(silence / 2)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		if !r.answers(ctx, silence/2) {
			giveUp(nil)
			return
		}
	}
}
