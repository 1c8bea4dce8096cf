package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"banger"
)

// watchList prints the list of VMs, and again after each change of it. A terminal
// shows the newest list only; elsewhere an empty line separates the lists.
func (a *app) watchList(ctx context.Context, svc service, quiet bool) error {
	a.lines = true
	vms, live := map[banger.VMID]banger.VM{}, false
	var shown any
	return follow(ctx, svc, func(e banger.Event) error {
		switch {
		case e.Kind == banger.EventReady:
			live = true
		case e.Kind == banger.EventDropped: // a snapshot follows
			live = false
			clear(vms)
		case e.VM != nil && e.Gone:
			delete(vms, e.VM.ID)
		case e.VM != nil:
			vms[e.VM.ID] = *e.VM
		}
		all := slices.SortedFunc(maps.Values(vms), func(a, b banger.VM) int { return cmp.Compare(a.Name, b.Name) })
		next := a.listed(all, quiet)
		if !live || reflect.DeepEqual(shown, next) {
			return nil
		}
		first := shown == nil
		shown = next
		if a.json {
			return a.printJSON(some(all))
		}
		a.separate(first)
		return a.printList(summaries(all), quiet)
	})
}

// listed returns what a list of vms shows of them, without their age.
func (a *app) listed(vms []banger.VM, quiet bool) any {
	if a.json {
		return vms
	}
	shown := make([]banger.VMSummary, len(vms))
	for i, vm := range summaries(vms) {
		shown[i].Name = vm.Name
		if !quiet {
			shown[i] = banger.VMSummary{Name: vm.Name, State: banger.State(listedState(vm)), Image: vm.Image,
				VCPUs: vm.VCPUs, Memory: vm.Memory, Disk: vm.Disk}
		}
	}
	return shown
}

// separate separates what --watch prints from what it printed before.
func (a *app) separate(first bool) {
	switch {
	case a.std.OutTTY:
		fmt.Fprint(a.std.Out, "\x1b[H\x1b[2J")
	case !first:
		fmt.Fprintln(a.std.Out)
	}
}

func summaries(vms []banger.VM) []banger.VMSummary {
	all := make([]banger.VMSummary, len(vms))
	for i, vm := range vms {
		all[i] = summary(vm)
	}
	return all
}

func summary(vm banger.VM) banger.VMSummary {
	return banger.VMSummary{Name: vm.Name, State: vm.State, Image: vm.Image, VCPUs: vm.VCPUs, Memory: vm.Memory,
		Disk: vm.Disk, CreatedAt: vm.CreatedAt, Ending: vm.Ending, Problems: vm.Problems}
}
