package firecracker

import (
	"context"
	"fmt"
	"net"
	"os"

	"banger"
	"banger/internal/operation"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Sockets in a VM's directory.
const (
	apiSocket   = "api.sock"
	vsockSocket = "v.sock"
)

// cmdline is the whole kernel command line of the guest: Firecracker's default disables
// modules. It may hold no secret, for every process of the guest can read it.
const cmdline = "console=ttyS0 reboot=k panic=-1 quiet loglevel=4 8250.nr_uarts=1 " +
	"i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce random.trust_cpu=on pci=off " + vmm.GuestLine

// Launch implements vmm.Driver. The caller has probed.
func (d *Driver) Launch(ctx context.Context, spec vmm.Spec) (_ vmm.Machine, err error) {
	program, err := d.inspect(ctx)
	if err != nil {
		return nil, err
	}
	if err := check(spec); err != nil {
		return nil, err
	}
	if err := process.CheckTap(spec); err != nil {
		return nil, err
	}
	var steps operation.Undo
	defer steps.OnError(ctx, &err)
	dir, err := process.OpenDir(spec.Dir)
	if err != nil {
		return nil, err
	}
	steps.Push("open directory", func(context.Context) error { return dir.Close() })
	account, err := d.host.Assign(dir, spec.ID)
	if err != nil {
		return nil, err
	}
	sockets := []string{apiSocket, vsockSocket, knockSocket}
	if err := dir.Remove(sockets...); err != nil {
		return nil, fmt.Errorf("remove sockets that were left: %w", err)
	}
	steps.Push("make sockets", func(context.Context) error { return dir.Remove(sockets...) })
	knocks, err := listenForKnocks(dir)
	if err != nil {
		return nil, err
	}
	steps.Push("listen for the guest", func(context.Context) error { return knocks.close() })
	var from int64
	if before, err := os.Stat(dir.Path(spec.Console)); err == nil {
		from = before.Size()
	}
	proc, err := fork(dir, program, spec, account)
	if err != nil {
		return nil, err
	}
	steps.Push("fork", func(context.Context) error { return proc.End() })
	api := newClient(func(ctx context.Context) (net.Conn, error) { return dialVMM(ctx, dir, apiSocket, proc) })
	steps.Push("configure", func(context.Context) error { api.close(); return nil })
	err = reach(ctx, proc, dir)
	if err == nil {
		appendToLog(proc, dir, spec.Log)
		err = configure(ctx, api, program.release, spec)
	}
	if err != nil {
		if kvm := d.host.CheckKVM(); kvm != nil && ctx.Err() == nil { // it worked when the driver was chosen
			return nil, kvm
		}
		return nil, explain(ctx, err, proc, dir, spec, from)
	}
	steps.Keep()
	return newMachine(proc, dir, api, knocks, spec.Log), nil
}

// fork starts Firecracker. It inherits the lock and nothing else.
func fork(dir *process.Dir, p program, spec vmm.Spec, account process.Account) (*process.Process, error) {
	// Never a pipe: Firecracker logs a line for each byte that nobody reads.
	console, err := dir.Create(spec.Console, os.O_APPEND)
	if err != nil {
		return nil, fmt.Errorf("open console log: %w", err)
	}
	defer console.Close()
	// Firecracker does not create it, and writes from its beginning.
	log, err := dir.Create(spec.Log, os.O_TRUNC)
	if err != nil {
		return nil, fmt.Errorf("create Firecracker's log: %w", err)
	}
	log.Close()
	if err := account.Admit(dir, spec, knockSocket); err != nil {
		return nil, err
	}
	proc, err := dir.Start(process.Command{
		Program: p.path,
		Args: []string{"--api-sock", apiSocket, "--id", string(spec.ID),
			"--log-path", spec.Log, "--level", "Info", "--module", "vmm"},
		Output: console, Inherit: []*os.File{spec.Lock}, Account: account, Inside: spec.Inside,
	})
	if err != nil {
		return nil, explainFork(err, p)
	}
	return proc, nil
}

// appendToLog makes Firecracker append to its log. By default it writes at an offset of
// its own, and would leave a hole after the log is cut. Firecracker opens the log before
// it serves its API. If the host forbids the change, there are holes.
func appendToLog(proc *process.Process, dir *process.Dir, log string) {
	if info, err := os.Stat(dir.Path(log)); err == nil {
		proc.AppendOnly(info)
	}
}

// configure sends the VM's configuration, and starts the VM.
func configure(ctx context.Context, api *client, r release, spec vmm.Spec) error {
	type step struct {
		call call
		body any
	}
	steps := []step{
		{putMachine, machineConfig{VCPUs: spec.VCPUs, MemoryMiB: int64(spec.Memory / banger.MiB)}},
		{putBootSource, bootSource{Kernel: spec.Kernel, Initrd: spec.Initrd, Args: cmdline}},
	}
	for _, disk := range spec.Disks {
		steps = append(steps, step{putDrive.named(string(disk.Role)),
			drive{ID: string(disk.Role), File: disk.File, ReadOnly: disk.ReadOnly, CacheType: writeback}})
	}
	if spec.NIC != nil {
		steps = append(steps, step{putInterface.named(interfaceID), cardOf(r, *spec.NIC)})
	}
	steps = append(steps,
		step{putVsock, vsock{GuestCID: guestCID, Socket: vsockSocket}},
		step{putEntropy, entropy{}},
		step{putBalloon, balloonOf(r)})
	if r.atLeast(limitsSerial) {
		steps = append(steps, step{putSerial, serial{Limit: consoleLimit}})
	}
	steps = append(steps, step{putAction, action{Type: instanceStart}})
	for _, s := range steps {
		if err := api.do(ctx, s.call, s.body, nil); err != nil {
			return err
		}
	}
	return nil
}

// cardOf returns the configuration of a network card that a release accepts.
func cardOf(r release, nic vmm.NIC) any {
	card := networkInterface{ID: interfaceID, Tap: nic.Tap, MAC: nic.MAC.String()}
	if nic.MTU > 0 && r.atLeast(tellsMTU) {
		return sizedInterface{card, nic.MTU}
	}
	return card
}

// balloonOf returns the configuration of the balloon that a release accepts.
func balloonOf(r release) any {
	b := balloon{DeflateOnOOM: true}
	if r.atLeast(tellsOfBalloon) {
		b.Interval = statsInterval
	}
	if r.atLeast(reportsFreePages) {
		return reportingBalloon{b, true}
	}
	return b
}
