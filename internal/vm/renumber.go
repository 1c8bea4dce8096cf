package vm

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"banger"
	"banger/internal/guest/wire"
)

// RenumberNetwork moves all VMs to another subnet, also those that run. A guest that
// cannot be told at once is told when its agent connects, or when it starts.
func (v *VMs) RenumberNetwork(ctx context.Context, opts banger.RenumberNetwork, progress banger.Progress) (done banger.Renumbered, err error) {
	op := v.Operations.Begin("network", banger.Renumber, "", "", progress)
	defer func() { op.End(ctx, &err) }()
	if done.Was = v.Network.Subnet(); opts.Subnet != "" {
		if done.Now, err = netip.ParsePrefix(opts.Subnet); err != nil {
			return done, banger.Invalidf("banger network renumber, which chooses a free one", "%q is not a subnet such as 10.201.16.0/20", opts.Subnet)
		}
	}
	if err = op.Step(ctx, "renumber", func(ctx context.Context) error {
		done.Now, err = v.Network.Renumber(ctx, done.Now)
		return err
	}); err != nil {
		return done, err
	}
	op.Keep()
	// The subnet has changed: it is too late to cancel.
	err = op.Step(context.WithoutCancel(ctx), banger.StepTellGuest, func(ctx context.Context) error {
		done.Later = v.tellAddresses(ctx)
		return nil
	})
	if len(done.Later) > 0 {
		op.Note(banger.StepTellGuest, fmt.Sprintf("%d VMs get their new address when they start", len(done.Later)))
	}
	return done, err
}

// tellAddresses tells every guest that runs its address, and returns the names of those
// that have not taken it.
func (v *VMs) tellAddresses(ctx context.Context) (later []string) {
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, o := range v.all() {
		o.mu.Lock()
		o.tell()
		r := o.run
		o.mu.Unlock()
		if r == nil || !r.outdated() {
			continue
		}
		all.Go(func() {
			if err := r.tellAddress(ctx); err != nil && r.alive() {
				o.log().Warn("tell the guest its address", "err", err)
				mu.Lock()
				defer mu.Unlock()
				later = append(later, o.name())
			}
		})
	}
	all.Wait()
	slices.Sort(later)
	return later
}

// outdated reports whether the guest knows another address than the VM has.
func (r *run) outdated() bool {
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	told := r.boot.Told
	return told != nil && *told != r.o.v.addressed(*told, r.o.row.Slot)
}

// tellAddress tells the guest its address if that has changed, and remembers it.
func (r *run) tellAddress(ctx context.Context) error {
	if !r.outdated() {
		return nil
	}
	r.o.mu.Lock()
	now := r.o.v.addressed(*r.boot.Told, r.o.row.Slot)
	r.o.mu.Unlock()
	if err := r.tell(ctx, wire.ConfigureParams{Network: &now}); err != nil {
		return err
	}
	r.o.mu.Lock()
	defer r.o.mu.Unlock()
	r.boot.Told = &now
	if r.o.run != r {
		return nil // it has ended meanwhile
	}
	r.o.tell()
	return writeBoot(r.o.dir(), r.boot)
}
