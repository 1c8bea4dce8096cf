package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"banger"
	"banger/internal/store"
)

// ListVMs implements banger.VMService, in the order of names.
func (v *VMs) ListVMs(ctx context.Context) ([]banger.VM, error) {
	rows, err := v.Store.VMs(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]banger.VM, len(rows))
	for i, row := range rows {
		list[i] = v.describe(row)
	}
	return list, nil
}

// SummarizeVMs implements banger.VMService, in the order of names.
func (v *VMs) SummarizeVMs(ctx context.Context) ([]banger.VMSummary, error) {
	rows, err := v.Store.Summaries(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]banger.VMSummary, len(rows))
	for i, row := range rows {
		state, _ := v.state(row.ID, row.Phase)
		list[i] = banger.VMSummary{Name: row.Name, State: state, Image: row.Image, VCPUs: row.VCPUs,
			Memory: row.Memory, Disk: row.Disk, CreatedAt: row.CreatedAt, Ending: row.Ending}
	}
	return list, nil
}

// state is what a VM does now, and its run if it has one.
func (v *VMs) state(id banger.VMID, phase store.Phase) (banger.State, *run) {
	state, r := v.entry(id).now()
	if phase == store.Deleting {
		state = banger.Deleting
	}
	return state, r
}

// ShowVM implements banger.VMService.
func (v *VMs) ShowVM(ctx context.Context, ref string) (banger.VM, error) {
	row, err := v.Store.FindVM(ctx, ref)
	if err != nil {
		return banger.VM{}, err
	}
	return v.describe(row), nil
}

func (v *VMs) show(ctx context.Context, id banger.VMID) (banger.VM, error) {
	row, err := v.Store.VM(ctx, id)
	if err != nil {
		return banger.VM{}, err
	}
	return v.describe(row), nil
}

func (v *VMs) describe(row store.VM) banger.VM {
	dir := v.Dirs.VM(row.ID)
	vm := banger.VM{
		ID: row.ID, Name: row.Name, Image: row.Image, ImageID: row.ImageID, Kernel: row.Kernel, KernelID: row.KernelID,
		VCPUs: row.VCPUs, Memory: row.Memory, Overlay: row.Overlay, Disk: row.Disk,
		Driver: row.Driver, Network: row.Network, CreatedAt: row.CreatedAt,
		Ending: row.Ending, EndingBy: row.EndingBy, EndedAt: row.EndedAt,
		Dir: string(dir), Console: dir.Console(), VMMLog: dir.VMMLog(row.Driver), SSHKey: v.sshKey, KnownHosts: v.knownHosts,
	}
	var r *run
	vm.State, r = v.state(row.ID, row.Phase)
	if r != nil {
		vm.PID, vm.StartedAt, vm.Launched = r.machine.PID(), r.boot.StartedAt, r.launched
		r.mu.Lock()
		vm.BootID = r.hello.BootID
		r.mu.Unlock()
	}
	return vm
}

// agentWait is how long a guest's agent may take to answer. It is a great deal
// for one that runs, and an agent may also just be on its way.
const agentWait = 60 * time.Second

// DialVM implements banger.VMService. Only the wait for the agent is bounded,
// not the stream.
func (v *VMs) DialVM(ctx context.Context, ref string, port int) (net.Conn, error) {
	return v.dial(ctx, ref, port, agentWait)
}

func (v *VMs) dial(ctx context.Context, ref string, port int, wait time.Duration) (_ net.Conn, err error) {
	row, err := v.Store.FindVM(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer named(&err, "reach", row.Name)
	if port < 1 || port > 65535 {
		return nil, banger.Invalidf("use a port from 1 to 65535", "%d is not a port", port)
	}
	r := v.entry(row.ID).current()
	if r == nil {
		return nil, &banger.Error{Kind: banger.Conflict, Why: errors.New("it is not running"), Fix: "banger vm start " + row.Name}
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	conn, err := r.machine.Dial(ctx, port)
	if ctx.Err() == context.DeadlineExceeded && err != nil {
		return nil, &banger.Error{Kind: banger.TimedOut, Why: errors.New("the guest's agent does not answer"), Fix: "banger vm logs " + row.Name}
	}
	if err != nil {
		return nil, fmt.Errorf("port %d: %w", port, err)
	}
	return conn, nil
}
