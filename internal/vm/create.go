package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"banger"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/durable"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vm/console"
	"banger/internal/vmm"
)

// smallestMemory is what a Debian guest with systemd boots in.
const smallestMemory = 192 * banger.MiB

// creating is what the steps of a create hand on to each other.
type creating struct {
	*operation.Operation
	v    *VMs
	row  store.VM
	undo operation.Undo
}

// CreateVM implements banger.VMService: it makes a VM and, unless told
// otherwise, starts it. Whatever fails, no part of the VM is left; the console
// of one that did not boot is kept for its reader.
func (v *VMs) CreateVM(ctx context.Context, spec banger.CreateVM, progress banger.Progress) (_ banger.VM, err error) {
	row, err := v.plan(ctx, spec)
	if err != nil {
		named(&err, "create", spec.Name)
		return banger.VM{}, err
	}
	c := &creating{Operation: v.begin("create", row.ID, row.Name, progress), v: v, row: row}
	defer c.End(ctx, &err)
	e := v.entry(row.ID)
	if err := e.take(ctx); err != nil {
		return banger.VM{}, err
	}
	defer e.release()
	c.Note("create disks", v.doubtful(row.Overlay, row.Disk, 0))
	defer c.undo.OnError(ctx, &err)
	steps := append([]step{{"reserve the name", c.reserve}}, c.installs()...)
	for _, step := range append(steps, step{"create disks", c.makeDir}, step{"record", c.place}) {
		if err := c.Step(ctx, step.name, step.do); err != nil {
			return banger.VM{}, err
		}
	}
	if !spec.NoStart {
		if err := v.start(ctx, c.Operation, c.row, e, 0); err != nil {
			if ctx.Err() != nil {
				return banger.VM{}, err
			}
			return banger.VM{}, v.explain(err, c.row, v.keepConsole(c.row))
		}
	}
	c.undo.Keep() // it is there: whoever cancels now is too late
	return v.show(context.WithoutCancel(ctx), row.ID)
}

// plan checks what was asked for and fills in the defaults.
func (v *VMs) plan(ctx context.Context, spec banger.CreateVM) (store.VM, error) {
	row := store.VM{ID: banger.VMID(newID(6)), Name: spec.Name, MachineID: newID(16), Network: "none",
		CreatedAt: time.Now().UTC(), Phase: store.Creating, Wanted: banger.WantStopped,
		VCPUs:  first(spec.VCPUs, v.Config.VCPUs),
		Memory: first(spec.Memory, v.Config.Memory), Disk: first(spec.Disk, v.Config.Disk), Overlay: first(spec.Overlay, v.Config.Overlay)}
	if row.Name != "" {
		if err := banger.CheckName(row.Name); err != nil {
			return row, err
		}
	}
	driver, caps, err := v.Drivers.Choose(ctx, first(spec.Driver, v.Config.Driver))
	if err != nil {
		return row, err
	}
	row.Driver = driver.Name()
	row.VCPUs = first(row.VCPUs, caps.DefaultVCPUs)
	err = v.checkResources(banger.SetVM{VCPUs: row.VCPUs, Memory: row.Memory, Disk: row.Disk, Overlay: row.Overlay}, caps)
	if err != nil {
		return row, err
	}
	if err := v.checkPromise(spec.Overlay, spec.Disk); err != nil {
		return row, err
	}
	if row.Image, row.ImageID, err = v.image(ctx, spec.Image); err != nil {
		return row, err
	}
	row.Kernel, row.KernelID, err = v.kernel(ctx)
	return row, err
}

func first[T comparable](values ...T) T {
	var zero T
	for _, value := range values {
		if value != zero {
			return value
		}
	}
	return zero
}

// checkResources checks those resources of a VM that are given.
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
		return banger.Invalidf(fmt.Sprintf("--vcpu 1 to --vcpu %d", caps.MaxVCPUs), "%d vCPUs are not possible here", r.VCPUs)
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
		return banger.Invalidf(fmt.Sprintf("--memory %d", total/banger.MiB/2), "--memory of %v is more than the host's %v", size, total)
	}
	return nil
}

func (v *VMs) image(ctx context.Context, name string) (string, banger.Digest, error) {
	asked := name
	name = first(name, v.Config.DefaultImage, v.Installed.Image.Name)
	image, err := v.Store.Image(ctx, name)
	if asked == "" && banger.KindOf(err) == banger.NotFound && v.Installed.Image.Name == name {
		return "", "", &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("the default image %q has been deleted", name), Fix: "banger daemon stop, then run the command again: the daemon takes it from the runtime bundle"}
	}
	if asked == "" && banger.KindOf(err) == banger.NotFound {
		return "", "", v.missing(fmt.Sprintf("the default image %q is not there", name))
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
		return "", "", v.missing("there is no kernel")
	}
	newest := kernels[0]
	for _, kernel := range kernels {
		if kernel.CreatedAt.After(newest.CreatedAt) {
			newest = kernel
		}
	}
	return newest.Name, newest.ID, nil
}

// reserve takes the VM's name. A generated one is tried again when taken.
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
		err := c.v.Store.InsertVM(ctx, c.row)
		if err != nil && generated && banger.KindOf(err) == banger.Conflict && tries < 20 {
			continue
		}
		if err != nil {
			return err
		}
		c.undo.Push("reserve the name", c.discard)
		return nil
	}
}

// discard deletes whatever there is of the VM, as the next daemon would.
func (c *creating) discard(ctx context.Context) error {
	if err := c.v.Store.SetPhase(ctx, c.row.ID, store.Deleting); err != nil {
		return err
	}
	return c.v.remove(ctx, c.row)
}

// makeDir puts the VM's directory together under a name that says it is not
// finished yet.
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
	if err := c.v.linkShared(dir, c.row); err != nil {
		return err
	}
	return c.v.knowHost(c.row.ID, c.row.Name, public)
}

// makeDisks makes both disks at once: each waits for the host's disk at its end.
func (c *creating) makeDisks(ctx context.Context, dir config.VMDir) error {
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

// linkShared gives a VM's directory names for the files that it shares with
// others: hard links of immutable files in the same state directory.
func (v *VMs) linkShared(dir config.VMDir, row store.VM) error {
	kernel := v.Dirs.Kernel(row.KernelID)
	for _, link := range []struct{ from, to string }{
		{kernel.Vmlinux(), dir.Kernel()},
		{kernel.Modules(), dir.Modules()},
		{v.Dirs.Image(row.ImageID).Rootfs(), dir.Base()},
	} {
		if _, err := os.Lstat(link.to); err == nil {
			continue // whatever has become of the other name
		}
		err := os.Link(link.from, link.to)
		if err != nil && !errors.Is(err, os.ErrExist) {
			return &banger.Error{Kind: banger.Unready, Why: fmt.Errorf("link to what the VM was made from: %w", err), Fix: "banger doctor"}
		}
	}
	return nil
}

// place makes the VM real: its directory gets its name, then its row does.
func (c *creating) place(ctx context.Context) error {
	dir := string(c.v.Dirs.NewVM(c.row.ID))
	if err := durable.Sync(dir); err != nil {
		return err
	}
	if err := durable.Rename(dir, string(c.v.Dirs.VM(c.row.ID))); err != nil {
		return err
	}
	if err := c.v.Store.SetPhase(ctx, c.row.ID, store.Ready); err != nil {
		return err
	}
	c.row.Phase = store.Ready
	return nil
}

// keepConsole saves the end of the console of a VM that is about to vanish, and returns
// where to. Only the newest of a name is kept.
func (v *VMs) keepConsole(row store.VM) string {
	kept := v.Dirs.FailedConsole(row.Name)
	from := v.Dirs.VM(row.ID).Console()
	end, err := console.Tail(from, 1<<20)
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
