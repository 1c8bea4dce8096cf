package vm

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/oci"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// smallestMemory is the least memory that a Debian guest with systemd boots with.
const smallestMemory = 192 * banger.MiB

// creating is the state that the steps of a create share.
type creating struct {
	*operation.Operation
	v     *VMs
	row   store.VM
	owner *owner

	helper *helper // nil: the VM is a user's
}

// CreateVM implements banger.VMService: it makes a VM and, unless told
// otherwise, starts it. A failure leaves no part of the VM; the console of one
// that did not boot is kept for the user.
func (v *VMs) CreateVM(ctx context.Context, spec banger.CreateVM, progress banger.Progress) (banger.VM, error) {
	return v.create(ctx, spec, nil, progress)
}

func (v *VMs) create(ctx context.Context, spec banger.CreateVM, how *helper, progress banger.Progress) (_ banger.VM, err error) {
	row, caps, err := v.plan(ctx, spec, progress)
	if err != nil {
		return banger.VM{}, operation.Name(err, "vm", banger.Create, spec.Name)
	}
	if how != nil {
		how.pin(&row)
	}
	c := &creating{Operation: v.Operations.Begin("vm", banger.Create, row.Name, row.ID, progress), v: v, row: row, helper: how}
	defer func() {
		err = v.noSpace(err)
		c.End(ctx, &err)
		if c.owner != nil {
			c.owner.release()
		}
	}()
	c.Note("create disks", v.spaceWarning(row.Overlay, row.Disk, 0))
	steps := append([]operation.Step{{Name: "reserve the name", Do: c.reserve}}, c.installs()...)
	steps = append(steps, operation.Step{Name: "create disks", Do: c.makeDir}, operation.Step{Name: "record", Do: c.place})
	if err := c.Run(ctx, steps...); err != nil {
		return banger.VM{}, err
	}
	if !spec.NoStart {
		if err := c.owner.startWith(ctx, c.Operation, caps, 0); err != nil {
			if ctx.Err() != nil {
				return banger.VM{}, err
			}
			return banger.VM{}, v.explain(err, v.keepConsole(c.owner))
		}
	}
	c.Keep() // the VM is complete: it is too late to cancel
	if c.row.Lease != "" {
		v.task(c.owner.expire)
	}
	return c.owner.show(), nil
}

// plan validates the request and fills in the defaults.
func (v *VMs) plan(ctx context.Context, spec banger.CreateVM, progress banger.Progress) (store.VM, vmm.Capabilities, error) {
	row := store.VM{ID: newVMID(), Name: spec.Name, MachineID: newID(16),
		Network: cmp.Or(spec.Network, v.Config.Network), NAT: v.Config.NAT,
		CreatedAt: time.Now().UTC(), Phase: store.Creating, Wanted: banger.WantStopped,
		VCPUs:  cmp.Or(spec.VCPUs, v.Config.VCPUs),
		Memory: cmp.Or(spec.Memory, v.Config.Memory), Disk: cmp.Or(spec.Disk, v.Config.Disk), Overlay: cmp.Or(spec.Overlay, v.Config.Overlay)}
	var caps vmm.Capabilities
	if spec.NAT != nil {
		row.NAT = *spec.NAT
	}
	if spec.Isolated != nil {
		row.Isolated = *spec.Isolated
	}
	if err := checkNetwork(spec.Network); err != nil {
		return row, caps, err
	}
	if err := v.forwards.Check(row.ID, spec.Ports); err != nil {
		return row, caps, err
	}
	if err := v.checkLease(spec.Lease); err != nil {
		return row, caps, err
	}
	row.Lease, row.Published = spec.Lease, publishText(spec.Ports)
	if row.Name != "" {
		if err := banger.CheckName(row.Name); err != nil {
			return row, caps, err
		}
	}
	driver, caps, err := v.Drivers.Choose(ctx, cmp.Or(spec.Driver, v.Config.Driver))
	if err != nil {
		return row, caps, err
	}
	row.Driver = driver.Name()
	row.VCPUs = cmp.Or(row.VCPUs, caps.DefaultVCPUs)
	err = v.checkResources(banger.SetVM{VCPUs: row.VCPUs, Memory: row.Memory, Disk: row.Disk, Overlay: row.Overlay}, caps)
	if err != nil {
		return row, caps, err
	}
	if err := v.checkPromise(spec.Overlay, spec.Disk); err != nil {
		return row, caps, err
	}
	if row.Image, row.ImageID, err = v.image(ctx, spec.Image, progress); err != nil {
		return row, caps, err
	}
	row.Kernel, row.KernelID, err = v.kernel(ctx)
	return row, caps, err
}

// checkResources validates the resources that are set.
func (v *VMs) checkResources(r banger.SetVM, caps vmm.Capabilities) error {
	for _, disk := range []struct {
		flag string
		size banger.Size
	}{{"--disk-size", r.Disk}, {"--overlay-size", r.Overlay}} {
		if err := checkDiskSize(disk.flag, disk.size); disk.size != 0 && err != nil {
			return err
		}
	}
	if r.VCPUs < 0 || r.VCPUs > caps.MaxVCPUs {
		return banger.Invalidf(fmt.Sprintf("--vcpu %d", caps.MaxVCPUs), "--vcpu must be from 1 to %d, not %d", caps.MaxVCPUs, r.VCPUs)
	}
	if r.Memory == 0 {
		return nil
	}
	return v.checkMemory(r.Memory)
}

func checkDiskSize(flag string, size banger.Size) error {
	if size < disk.Smallest || size > disk.Largest {
		return banger.Invalidf(flag+" 16G", "%s of %v is not between %v and %v", flag, size, disk.Smallest, disk.Largest)
	}
	return nil
}

func (v *VMs) checkMemory(size banger.Size) error {
	if size < smallestMemory {
		return banger.Invalidf("--memory 1G", "--memory of %v is less than the %v a VM needs", size, smallestMemory)
	}
	total, err := hostMemory()
	if err != nil {
		return err
	}
	if size > total {
		return banger.Invalidf("--memory "+half(total), "--memory of %v is more than the host's %v", size, total)
	}
	return nil
}

func (v *VMs) image(ctx context.Context, name string, progress banger.Progress) (string, banger.Digest, error) {
	asked := name
	name = cmp.Or(name, v.Config.DefaultImage, v.Installed.Image.Name)
	if v.Pull != nil && oci.IsRef(name) {
		image, err := v.Pull(ctx, name, progress)
		return image.Name, image.ID, err
	}
	image, err := v.Store.Image(ctx, name)
	if asked == "" && banger.KindOf(err) == banger.NotFound && v.Installed.Image.Name == name {
		return "", "", &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("the default image %q has been deleted", name), Fix: "banger daemon stop, then run the command again: the daemon takes it from the runtime bundle"}
	}
	if asked == "" && banger.KindOf(err) == banger.NotFound {
		return "", "", v.missing(fmt.Sprintf("the default image %q is missing", name))
	}
	if v.Pull != nil && banger.KindOf(err) == banger.NotFound && banger.CheckImageName(name) == nil {
		return "", "", &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("there is no image %q", name), Fix: fmt.Sprintf("banger image list, or pull one: --image %s:latest", name)}
	}
	return image.Name, image.ID, err
}

func (v *VMs) kernel(ctx context.Context) (string, banger.Digest, error) {
	if v.Installed.Kernel.ID != "" {
		return v.Installed.Kernel.Name, v.Installed.Kernel.ID, nil
	}
	kernels, err := v.Store.Kernels(ctx)
	if err != nil {
		return "", "", err
	}
	if len(kernels) == 0 {
		return "", "", v.missing("no kernel is installed")
	}
	newest := kernels[0]
	for _, kernel := range kernels {
		if kernel.CreatedAt.After(newest.CreatedAt) {
			newest = kernel
		}
	}
	return newest.Name, newest.ID, nil
}

// reserve takes the VM's name. A generated name that is taken is replaced.
func (c *creating) reserve(ctx context.Context) error {
	generated := c.row.Name == ""
	for tries := 0; ; tries++ {
		if generated {
			name, err := c.v.newName(ctx)
			if err != nil {
				return err
			}
			c.row.Name = name
			c.Name(name)
		}
		slot, err := c.v.Store.InsertVM(ctx, c.row)
		if err != nil && generated && banger.KindOf(err) == banger.Conflict && tries < 20 {
			continue
		}
		if err != nil {
			return err
		}
		c.row.Slot = slot
		c.owner = c.v.own(c.row, banger.Gone)
		c.owner.helper = c.helper
		c.owner.publishName()
		c.owner.turn <- struct{}{} // before anybody else can have it
		c.owner.happen(banger.Create)
		c.Push("reserve the name", c.discard)
		return nil
	}
}

// discard deletes whatever there is of the VM, as the next daemon would.
func (c *creating) discard(ctx context.Context) error {
	if err := c.owner.mark(ctx); err != nil {
		return err
	}
	if err := c.owner.remove(ctx); err != nil || c.row.Lease == "" {
		return err
	}
	return removeAny(c.v.Dirs.Lease(c.row.Lease))
}

// makeDir creates the VM's directory under a temporary name, which marks it as
// unfinished.
func (c *creating) makeDir(ctx context.Context) error {
	if err := disk.CheckRoom(c.v.Dirs.VMs(), 2); err != nil { // beside what the bundle has brought
		return err
	}
	dir := c.v.Dirs.NewVM(c.row.ID)
	if err := os.Mkdir(string(dir), 0o700); err != nil {
		return err
	}
	private, public, err := guest.NewKey(guest.HostAlias(c.row.ID))
	if err != nil {
		return err
	}
	if err := durable.WriteFile(dir.HostKey(), private, 0o600); err != nil {
		return err
	}
	if err := c.makeDisks(ctx, dir); err != nil {
		return err
	}
	if err := c.v.linkShared(ctx, dir, c.row); err != nil {
		return err
	}
	return c.v.knowHost(c.row.ID, c.row.Name, public)
}

// makeDisks creates both disks in parallel, since each waits for the host's disk.
func (c *creating) makeDisks(ctx context.Context, dir config.VMDir) error {
	if c.helper != nil && c.helper.source != nil {
		return c.helper.makeDisks(ctx, c.v, dir, c.row)
	}
	overlay := make(chan error, 1)
	go func() { overlay <- disk.Create(ctx, c.v.Run, dir.Overlay(), c.row.Overlay, wire.LabelOverlay) }()
	work := disk.Create(ctx, c.v.Run, dir.Work(), c.row.Disk, wire.LabelWork)
	if err := <-overlay; err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if work != nil {
		return fmt.Errorf("work disk: %w", work)
	}
	return nil
}

// place completes the VM: it renames the directory, then updates the row.
func (c *creating) place(ctx context.Context) error {
	dir := string(c.v.Dirs.NewVM(c.row.ID))
	if err := durable.Sync(dir); err != nil {
		return err
	}
	if err := durable.Rename(dir, string(c.v.Dirs.VM(c.row.ID))); err != nil {
		return err
	}
	err := c.owner.save(func() error { return c.v.Store.SetPhase(ctx, c.row.ID, store.Ready) },
		func(row *store.VM) { row.Phase = store.Ready })
	if err == nil {
		c.owner.happen(banger.Created)
	}
	return err
}

// keepConsole saves the end of the console of a VM that is about to be removed,
// and returns the file. Only the newest of a name is kept.
func (v *VMs) keepConsole(o *owner) string {
	kept := v.Dirs.FailedConsole(o.name())
	end, err := console.Tail(o.dir().Console(), 1<<20)
	if err == nil {
		err = os.MkdirAll(v.Dirs.Failed(), 0o700)
	}
	if err == nil {
		err = os.WriteFile(kept, end, 0o600)
	}
	if err != nil {
		return v.Dirs.Log()
	}
	return kept
}
