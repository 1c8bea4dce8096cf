package script

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger"
	"banger/internal/network"
	"banger/internal/network/helper"
)

// place is what a VM has for its whole life.
type place struct {
	name string
	slot [2]byte // the end of its address
	mac  string
}

func placeOf(vm banger.VM) place {
	a := vm.Network.Address.As4()
	return place{vm.Name, [2]byte{a[2] & 0x0f, a[3]}, vm.Network.MAC}
}

// checkAfter checks everything after a verb. VMs that it is not about are as before.
func (k *kills) checkAfter(v verb, err error, about string) {
	k.Helper()
	before := k.vms
	k.check(about)
	for name, was := range before {
		vm, there := k.vms[name]
		if name == v.target {
			continue
		}
		if !there || vm.Network.NAT != was.Network.NAT {
			k.Errorf("%s: %s was %+v, is %+v", about, name, was.Network, vm.Network)
		}
		if vm.PID != was.PID && name != k.fallen {
			k.Errorf("%s: the VMM of %s was %d, is %d", about, name, was.PID, vm.PID)
		}
	}
	if err == nil && v.wrong != nil {
		if wrong := v.wrong(k.vms[v.target]); wrong != "" {
			k.Errorf("%s has succeeded: %s", about, wrong)
		}
	}
}

func isRunning(vm banger.VM) bool { return vm.State == banger.Running }

// repairTime is how long everything may take to be as it should be after a kill.
const repairTime = 30 * time.Second

// check waits until nothing is wrong. What was killed is replaced by itself.
func (k *kills) check(about string) {
	k.Helper()
	for end := time.Now().Add(repairTime); ; {
		wrong := k.wrong()
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(end) {
			k.Fatalf("%s:\n%s", about, strings.Join(wrong, "\n"))
		}
		<-time.After(10 * time.Millisecond)
	}
}

// wrong returns everything that is not as it should be.
func (k *kills) wrong() (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	reap()
	if k.daemon != 0 {
		vms, err := k.client.ListVMs(k.Context())
		if err != nil {
			return []string{err.Error()}
		}
		k.see(vms, say)
	}
	var up []banger.VM
	for _, vm := range k.vms {
		if isRunning(vm) {
			up = append(up, vm)
		}
	}
	k.checkProcesses(up, say)
	k.checkFiles(say)
	if k.mode == network.Bridge || len(up) > 0 {
		k.checkKernel(up, say)
	}
	if len(up) > 0 {
		k.checkNames(say)
	}
	return wrong
}

// see takes the VMs as they are shown: each has what it had before.
func (k *kills) see(vms []banger.VM, say func(string, ...any)) {
	k.vms = map[string]banger.VM{}
	k.subnet = netip.Prefix{}
	for _, vm := range vms {
		k.vms[vm.Name] = vm
		if vm.State != banger.Running && vm.State != banger.Stopped {
			say("%s is %s", vm.Name, vm.State)
		}
		if vm.Network.Mode != string(k.mode) || len(vm.Problems) > 0 {
			say("%s has the network %+v and the problems %+v", vm.Name, vm.Network, vm.Problems)
			continue
		}
		has := placeOf(vm)
		if was, known := k.places[vm.ID]; known && was != has {
			say("%s had %+v", vm.Name, was)
		}
		k.places[vm.ID] = has
		subnet := netip.PrefixFrom(vm.Network.Address, network.PrefixBits).Masked()
		if k.subnet.IsValid() && k.subnet != subnet {
			say("%s is in %v, others are in %v", vm.Name, subnet, k.subnet)
		}
		k.subnet = subnet
	}
}

// checkProcesses: there is the daemon, a VMM for each VM that runs, and a helper if one
// does. A daemon of none holds no namespace.
func (k *kills) checkProcesses(up []banger.VM, say func(string, ...any)) {
	wanted := map[int]bool{k.daemon: true}
	for _, vm := range up {
		wanted[vm.PID] = true
	}
	switch pid := k.helperPID(); {
	case pid == 0 && len(up) > 0:
		say("no helper runs")
	case pid != 0 && len(up) == 0:
		say("the helper %d runs for nobody", pid)
	default:
		wanted[pid] = true
	}
	var walk func(int)
	walk = func(pid int) {
		for _, child := range children(pid) {
			if !wanted[child] {
				say("process %d is left: %q", child, commandLine(child))
			}
			walk(child)
		}
	}
	walk(os.Getpid())
	if len(up) > 0 || k.daemon == 0 {
		return
	}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", k.daemon))
	for _, link := range links {
		if to, _ := os.Readlink(link); strings.HasPrefix(to, "net:[") || strings.HasPrefix(to, "user:[") {
			say("the daemon holds %s", to)
		}
	}
}

// checkFiles: nothing is left that is no VM's, or was being written.
func (k *kills) checkFiles(say func(string, ...any)) {
	ids := map[string]bool{}
	for _, vm := range k.vms {
		ids[string(vm.ID)] = true
	}
	entries, _ := os.ReadDir(k.dirs.VMs())
	for _, entry := range entries {
		if !ids[entry.Name()] {
			say("%s is no VM's", entry.Name())
		}
	}
	for _, dir := range []string{k.dirs.State, k.dirs.Cache, k.dirs.Runtime} {
		filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && strings.HasPrefix(entry.Name(), ".") {
				say("%s is left", path)
			}
			return nil
		})
	}
	if _, err := os.Stat(k.dirs.Net().State()); (err == nil) != (k.helperPID() != 0) {
		say("the helper's file: %v", err)
	}
}

// checkKernel: the links and the rules are those of the VMs that run.
func (k *kills) checkKernel(up []banger.VM, say func(string, ...any)) {
	inside := 0
	for _, vm := range up {
		if inside = vm.PID; k.mode == network.Usernet {
			break
		}
	}
	seen, err := k.look(inside)
	if err != nil {
		say("%v", err)
		return
	}
	want := k.wanted(up)
	for name, link := range want.Links {
		if seen.Links[name] != link {
			say("the link %s is %+v, want %+v", name, seen.Links[name], link)
		}
	}
	for name, link := range seen.Links {
		if _, ours := want.Links[name]; !ours && (link.Alias != "" || strings.HasPrefix(name, "bg")) {
			say("the link %s is left: %+v", name, link)
		}
	}
	for name, elements := range want.Sets {
		if got, there := seen.Sets[name]; !there || !slices.Equal(got, elements) {
			say("the set %s is %q, want %q", name, got, elements)
		}
	}
	for name := range seen.Sets {
		if _, ours := want.Sets[name]; !ours && strings.Contains(name, k.instance.Table()) {
			say("the set %s is left", name)
		}
	}
	if slices.ContainsFunc(seen.Tables, func(name string) bool { return strings.Contains(name, "banger_") }) != (len(up) > 0) {
		say("the tables are %q", seen.Tables)
	}
}

// wanted is what the kernel should have.
func (k *kills) wanted(up []banger.VM) (want seen) {
	if len(up) == 0 {
		return want
	}
	bridge, mtu := k.instance.Bridge(), 1500
	if k.mode == network.Usernet {
		mtu = network.UplinkMTU
	}
	common := link{Alias: k.instance.Alias(), Up: true, Carrier: true, MTU: mtu}
	want.Links, want.Sets = map[string]link{bridge: common}, map[string][]string{}
	if k.mode == network.Usernet {
		want.Links[k.instance.Uplink()] = common
	}
	inet, frames := "inet "+k.instance.Table()+" ", "bridge "+k.instance.Table()+" "
	for _, name := range []string{inet + "egress", inet + "isolated", frames + "isolated", frames + "taps", frames + "cards", frames + "senders", frames + "senders6"} {
		want.Sets[name] = nil
	}
	for _, vm := range up {
		tap := network.Tap(vm.ID)
		port := common
		port.Master = bridge
		want.Links[tap] = port
		name := string(append([]byte(tap), make([]byte, 16-len(tap))...))
		card := name + string(network.MAC(vm.ID)) + "\x00\x00"
		addr := string(vm.Network.Address.AsSlice())
		mac := network.MAC(vm.ID)
		local := "\xfe\x80\x00\x00\x00\x00\x00\x00" + string([]byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
		for set, element := range map[string]string{frames + "taps": name, frames + "cards": card, frames + "senders": card + addr, frames + "senders6": card + local} {
			want.Sets[set] = append(want.Sets[set], hex.EncodeToString([]byte(element)))
		}
		if vm.Network.NAT {
			want.Sets[inet+"egress"] = append(want.Sets[inet+"egress"], hex.EncodeToString([]byte(addr)))
		}
	}
	for _, set := range want.Sets {
		slices.Sort(set)
	}
	return want
}

// look returns the network that a process is in, or that of this one.
func (k *kills) look(inside int) (found seen, err error) {
	if k.mode == network.Bridge {
		return lookAround()
	}
	cmd := exec.CommandContext(k.Context(), "nsenter", fmt.Sprintf("--user=/proc/%d/ns/user", inside), fmt.Sprintf("--net=/proc/%d/ns/net", inside), "--preserve-credentials", "--",
		filepath.Join(filepath.Dir(k.opts.Program), "test"))
	cmd.Env = []string{lookEnv + "=1", "GORACE=atexit_sleep_ms=0"}
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return found, fmt.Errorf("look: %w: %s", err, exit.Stderr)
	}
	if err != nil {
		return found, err
	}
	return found, json.Unmarshal(out, &found)
}

// checkNames: the helper knows every VM.
func (k *kills) checkNames(say func(string, ...any)) {
	at := helper.HostAddr(k.instance).String()
	resolver := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", at)
	}}
	ctx, cancel := context.WithTimeout(k.Context(), time.Second)
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(k.vms)) {
		got, err := resolver.LookupHost(ctx, name+".vm.")
		if want := k.vms[name].Network.Address.String(); err != nil || !slices.Equal(got, []string{want}) {
			say("%s.vm is %v, want %s: %v", name, got, want, err)
		}
	}
}
