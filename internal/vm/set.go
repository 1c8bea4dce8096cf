package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"banger"
	"banger/internal/disk"
	"banger/internal/guest/wire"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vmm"
)

// growTime bounds how long a guest may take to grow its file systems.
const growTime = 2 * time.Minute

// setting is the state that the steps of a set share.
type setting struct {
	*operation.Operation
	*owner
	row   store.VM // as it will be
	was   store.VM
	disks []growing
	caps  vmm.Capabilities // of the driver that it will have
}

// growing is a disk and its new size.
type growing struct {
	flag, label, path string
	role              vmm.Role
	size              banger.Size
}

// SetVM implements banger.VMService. After a failure, and after a crash of the
// daemon, no disk is smaller than its record says.
func (v *VMs) SetVM(ctx context.Context, ref string, opts banger.SetVM, progress banger.Progress) (_ banger.VM, err error) {
	o, op, end, err := v.begin(ctx, banger.Set, ref, progress)
	if err != nil {
		return banger.VM{}, err
	}
	defer func() { end(&err) }()
	if err := o.noStranger(ctx); err != nil {
		return banger.VM{}, err
	}
	row, _, _ := o.now()
	s := &setting{Operation: op, owner: o, row: row, was: row}
	restart, err := s.plan(ctx, opts)
	if err != nil {
		return banger.VM{}, err
	}
	if restart {
		err = s.restarted(ctx)
	} else {
		err = s.set(ctx)
	}
	if err != nil {
		return banger.VM{}, err
	}
	s.Keep() // it is done: it is too late to cancel
	return o.show(), nil
}

// plan validates the request, fills in the rest and reports whether it needs a
// restart.
func (s *setting) plan(ctx context.Context, opts banger.SetVM) (restart bool, err error) {
	asked := opts
	asked.Apply = false
	if asked == (banger.SetVM{}) {
		return false, banger.Invalidf("banger vm set --memory 2048 "+s.row.Name, "no setting is given")
	}
	driver, caps, err := s.v.Drivers.Choose(ctx, cmp.Or(opts.Driver, s.was.Driver))
	if err != nil {
		return false, err
	}
	s.caps = caps
	s.row.Driver = driver.Name()
	if s.row.Driver != s.was.Driver {
		opts.VCPUs = cmp.Or(opts.VCPUs, s.was.VCPUs) // the other one may have allowed more
	}
	if err := s.v.checkResources(opts, caps); err != nil {
		return false, err
	}
	if err := s.planDisks(opts); err != nil {
		return false, err
	}
	if err := s.v.checkPromise(opts.Overlay, opts.Disk); err != nil {
		return false, err
	}
	if err := s.planNetwork(opts); err != nil {
		return false, err
	}
	s.row.VCPUs, s.row.Memory = cmp.Or(opts.VCPUs, s.was.VCPUs), cmp.Or(opts.Memory, s.was.Memory)
	why := s.restartReason(caps)
	if why == "" {
		return false, nil
	}
	if !opts.Apply {
		return false, &banger.Error{Kind: banger.Conflict, Why: errors.New(why), Fix: "banger vm set --apply" + flagsOf(asked) + " " + s.row.Name + ", which restarts it"}
	}
	return true, nil
}

// restartReason returns why the running VM cannot change without a restart. It is
// empty if it can.
func (s *setting) restartReason(caps vmm.Capabilities) string {
	r := s.running()
	switch memory := s.row.Memory != s.was.Memory; {
	case r == nil:
		return ""
	case s.row.VCPUs != s.was.VCPUs:
		return "vCPUs cannot change while it runs"
	case memory && (!caps.Balloon || r.launched == 0):
		return "memory cannot change while it runs"
	case memory && s.row.Memory > r.launched:
		return fmt.Sprintf("it was started with %v of memory, the maximum until it is restarted", r.launched)
	case s.row.Driver != s.was.Driver:
		return "the driver cannot change while it runs"
	case s.row.Network != s.was.Network:
		return "a network card cannot come or go while it runs"
	case len(s.disks) > 0 && !caps.GrowOnline:
		return fmt.Sprintf("%s cannot grow disks while it runs", s.row.Driver)
	}
	return ""
}

// planDisks returns an error if a disk would have to shrink.
func (s *setting) planDisks(opts banger.SetVM) error {
	dir := s.dir()
	for _, d := range []growing{
		{"--overlay-size", wire.LabelOverlay, dir.Overlay(), vmm.Overlay, opts.Overlay},
		{"--disk-size", wire.LabelWork, dir.Work(), vmm.Work, opts.Disk},
	} {
		if d.size == 0 {
			continue
		}
		info, err := os.Stat(d.path)
		if err != nil {
			return err
		}
		if now := banger.Size(info.Size()); d.size < now {
			return banger.Invalidf(d.flag+" "+now.String()+" or more", "%s %v is less than the %v it has: a disk cannot shrink", d.flag, d.size, now)
		}
		s.disks = append(s.disks, d)
	}
	s.row.Overlay, s.row.Disk = cmp.Or(opts.Overlay, s.was.Overlay), cmp.Or(opts.Disk, s.was.Disk)
	return nil
}

func (s *setting) planNetwork(opts banger.SetVM) error {
	if err := checkNetwork(opts.Network); err != nil {
		return err
	}
	s.row.Network = cmp.Or(opts.Network, s.was.Network)
	if opts.NAT != nil {
		s.row.NAT = *opts.NAT
	}
	if opts.Isolated != nil {
		s.row.Isolated = *opts.Isolated
	}
	if opts.Ports == nil {
		return nil
	}
	s.row.Published = publishText(*opts.Ports)
	return s.v.forwards.Check(s.id, *opts.Ports)
}

// changeNetwork changes what the VM may reach, at once if it runs.
func (s *setting) changeNetwork(ctx context.Context) error {
	s.publishName()
	if s.running() == nil {
		return nil
	}
	s.Push("change the network", func(ctx context.Context) error {
		return s.v.Network.Set(ctx, s.id, s.was.NAT, s.was.Isolated)
	})
	return s.v.Network.Set(ctx, s.id, s.row.NAT, s.row.Isolated)
}

// flagsOf returns the command line flags that ask for the same change.
func flagsOf(opts banger.SetVM) string {
	text := ""
	if opts.VCPUs != 0 {
		text = fmt.Sprintf(" --vcpu %d", opts.VCPUs)
	}
	if opts.Driver != "" {
		text += " --driver " + opts.Driver
	}
	for _, f := range []struct {
		name string
		size banger.Size
	}{{"--memory", opts.Memory}, {"--disk-size", opts.Disk}, {"--overlay-size", opts.Overlay}} {
		if f.size != 0 {
			text += fmt.Sprintf(" %s %s", f.name, exact(f.size))
		}
	}
	if opts.Network != "" {
		text += " --network " + opts.Network
	}
	for _, f := range []struct {
		name string
		on   *bool
	}{{"nat", opts.NAT}, {"isolated", opts.Isolated}} {
		switch {
		case f.on == nil:
		case *f.on:
			text += " --" + f.name
		default:
			text += " --no-" + f.name
		}
	}
	if opts.Ports != nil && len(*opts.Ports) == 0 {
		text += " --no-ports"
	} else if opts.Ports != nil {
		text += " --port " + strings.ReplaceAll(publishText(*opts.Ports), " ", " --port ")
	}
	return text
}

// exact formats a size as a flag, without rounding.
func exact(size banger.Size) string {
	if size%banger.MiB == 0 {
		return fmt.Sprintf("%dM", size/banger.MiB)
	}
	return fmt.Sprintf("%dK", (size+banger.KiB-1)/banger.KiB)
}

// half returns about half of a size, as a size that a person would write.
func half(size banger.Size) string {
	round := banger.MiB
	for round*2 <= size/2 {
		round *= 2
	}
	return round.String()
}

// restarted sets between a stop and a start. When that fails, the VM is started
// again as it was.
func (s *setting) restarted(ctx context.Context) error {
	s.Push("stop", func(ctx context.Context) error { return s.comeBack(ctx, s.Operation) })
	if err := s.stop(ctx, s.Operation, banger.StopVM{}); err != nil {
		return err
	}
	if err := s.set(ctx); err != nil {
		return err
	}
	if err := s.startWith(ctx, s.Operation, s.caps, 0); err != nil {
		return s.v.explain(err, s.dir().Console())
	}
	return nil
}

func (s *setting) set(ctx context.Context) error {
	r := s.running()
	var steps []operation.Step
	add := func(when bool, name string, do func(context.Context) error) {
		if when {
			steps = append(steps, operation.Step{Name: name, Do: do})
		}
	}
	add(len(s.disks) > 0, "grow disks", s.growFiles)
	add(r != nil && s.row.Memory != s.was.Memory, "set memory", s.setMemory)
	add(true, "record", s.record)
	add(s.row.NAT != s.was.NAT || s.row.Isolated != s.was.Isolated, "change the network", s.changeNetwork)
	add(len(s.disks) > 0 && r != nil, "grow file systems", s.growGuest) // else it does when it boots
	return s.Run(ctx, steps...)
}

// setMemory inflates or deflates the guest's balloon. It does not wait for the
// guest, which gives what it can spare and takes memory back before it kills programs.
func (s *setting) setMemory(ctx context.Context) error {
	r := s.running()
	if r == nil {
		return nil // it has just ended
	}
	s.Push("set memory", func(ctx context.Context) error {
		if !r.alive() {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, memoryTime)
		defer cancel()
		return r.machine.SetMemory(ctx, s.was.Memory)
	})
	err := r.machine.SetMemory(ctx, s.row.Memory)
	if err != nil && !r.alive() {
		return nil
	}
	return err
}

func (s *setting) growFiles(ctx context.Context) error {
	if err := s.doubt(); err != nil {
		return err
	}
	for _, d := range s.disks {
		if err := disk.Grow(d.path, d.size); err != nil {
			return fmt.Errorf("%s: %w", d.role, err)
		}
		if r := s.running(); r != nil {
			if err := r.machine.Grow(ctx, d.role, d.size); err != nil {
				return fmt.Errorf("resize %s in the VMM: %w", d.role, err)
			}
		}
	}
	return nil
}

// doubt adds a note if the host may run out of space for the disks.
func (s *setting) doubt() error {
	dir := s.dir()
	overlay, errOverlay := allocated(dir.Overlay())
	work, errWork := allocated(dir.Work())
	s.Note("grow disks", s.v.spaceWarning(s.row.Overlay, s.row.Disk, overlay+work))
	return errors.Join(errOverlay, errWork)
}

// record records the settings. Its undo keeps the disks' sizes, which cannot
// become smaller again.
func (s *setting) record(ctx context.Context) error {
	s.Push("record", func(ctx context.Context) error {
		s.was.Overlay, s.was.Disk = s.row.Overlay, s.row.Disk
		return s.settings(ctx, s.was)
	})
	return s.settings(ctx, s.row)
}

// settings gives the VM the driver and the resources of a row.
func (o *owner) settings(ctx context.Context, to store.VM) error {
	return o.save(func() error { return o.v.Store.SetSettings(ctx, to) }, func(row *store.VM) {
		row.Driver, row.VCPUs, row.Memory, row.Overlay, row.Disk = to.Driver, to.VCPUs, to.Memory, to.Overlay, to.Disk
		row.Network, row.NAT, row.Isolated, row.Published = to.Network, to.NAT, to.Isolated, to.Published
		o.forward()
	})
}

// growGuest asks the running guest to grow its file systems. A guest that fails
// grows them at its next boot, since the disks have grown already.
func (s *setting) growGuest(ctx context.Context) error {
	r := s.running()
	if r == nil {
		return nil // it has just ended
	}
	sizes := map[string]int64{}
	for _, d := range s.disks {
		sizes[d.label] = int64(d.size)
	}
	bounded, cancel := context.WithTimeout(ctx, growTime)
	defer cancel()
	err := r.ask(bounded, wire.MethodGrow, wire.GrowParams{Disks: sizes})
	if err != nil && ctx.Err() == nil && r.alive() {
		return &banger.Error{Why: fmt.Errorf("the disks have grown, but not their file systems: %w", err),
			Fix: "banger vm restart " + s.row.Name + ": the guest grows them when it boots"}
	}
	return ctx.Err()
}
