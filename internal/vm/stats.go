package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/network"
	"banger/internal/operation"
)

const (
	// statsTime is how long a guest may take to tell of itself.
	statsTime = 5 * time.Second
	// mostFileSystems bounds what a guest can make us print.
	mostFileSystems = 16
	// ticks are the units of CPU time in /proc, in one second.
	ticks = 100
)

// VMStats implements banger.VMService. What a guest does not report is left out.
func (v *VMs) VMStats(ctx context.Context, ref string) (_ banger.VMStats, err error) {
	o, err := v.find(ref)
	if err != nil {
		return banger.VMStats{}, err
	}
	vm := o.show()
	defer func() { err = operation.Name(err, "vm", "measure", vm.Name) }()
	s := banger.VMStats{ID: vm.ID, Name: vm.Name, State: vm.State}
	if s.OverlayOnHost, err = allocated(o.dir().Overlay()); err != nil {
		return s, err
	}
	if s.DiskOnHost, err = allocated(o.dir().Work()); err != nil {
		return s, err
	}
	r := o.running()
	o.traffic(ctx, &s)
	if r == nil {
		return s, nil
	}
	if err := r.cost(&s); err != nil {
		return s, err
	}
	if memory, err := r.machine.Memory(ctx); err == nil {
		s.Launched = memory.Launched
		if memory.Told {
			s.Balloon = &memory.Balloon
		}
	} else if r.alive() && r.launched != 0 {
		o.log().Warn("ask the VMM for its memory", "err", err)
	}
	if s.Guest, err = r.guestStats(ctx); err != nil {
		o.log().Warn("ask the guest for its stats", "err", err)
	}
	return s, ctx.Err()
}

// traffic fills in what the VM has transferred. While a run ends it may be missing what
// that run has: it is never counted twice.
func (o *owner) traffic(ctx context.Context, s *banger.VMStats) {
	row, _, r := o.now()
	s.NetworkReceived, s.NetworkSent = row.Received, row.Sent
	if r == nil || r.boot.Network == network.None || r.boot.Network == "" {
		return
	}
	all, err := o.v.Network.Traffic(ctx)
	if err != nil {
		o.log().Warn("read the VM's traffic", "err", err)
		return
	}
	s.NetworkReceived += banger.Size(all[o.id].Received)
	s.NetworkSent += banger.Size(all[o.id].Sent)
}

// allocated returns the space that a sparse file uses on the host.
func allocated(path string) (banger.Size, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("measure %s: %w", path, err)
	}
	return banger.Size(stat.Blocks) * 512, nil
}

// cost reads the CPU time and the memory of the VMM's process.
func (r *run) cost(s *banger.VMStats) error {
	pid := r.machine.PID()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil {
		s.CPUTime, s.Resident, err = readStat(stat)
	}
	if !r.alive() || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		s.CPUTime, s.Resident = 0, 0 // it has just ended
		return nil
	}
	s.PID = pid
	return err
}

// readStat reads /proc/<pid>/stat, whose second field can hold anything.
func readStat(stat []byte) (cpu time.Duration, resident banger.Size, err error) {
	const user, system, rss = 11, 12, 21 // counted from the third field
	_, rest, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if len(fields) <= rss {
		return 0, 0, errors.New("unexpected format of /proc/PID/stat")
	}
	var values [3]int64
	for i, field := range []int{user, system, rss} {
		if values[i], err = strconv.ParseInt(string(fields[field]), 10, 64); err != nil {
			return 0, 0, fmt.Errorf("read what /proc tells of the VMM: %w", err)
		}
	}
	return time.Duration(values[0]+values[1]) * (time.Second / ticks), banger.Size(values[2] * int64(os.Getpagesize())), nil
}

// guestStats asks the agent, if it is connected and knows how to answer.
func (r *run) guestStats(ctx context.Context) (*banger.GuestStats, error) {
	r.o.mu.Lock()
	control, features := r.control, r.hello.Features
	r.o.mu.Unlock()
	if control == nil || !slices.Contains(features, wire.FeatureStats) {
		return nil, nil
	}
	return askStats(ctx, control)
}

func askStats(ctx context.Context, control *guest.Control) (*banger.GuestStats, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTime)
	defer cancel()
	var told wire.Stats
	if err := control.Call(ctx, wire.MethodStats, nil, &told); err != nil {
		return nil, err
	}
	s := &banger.GuestStats{Uptime: time.Duration(told.UptimeMS) * time.Millisecond, Load: told.Load,
		CPUs: told.CPUs, CPUBusy: time.Duration(told.CPUBusyMS) * time.Millisecond, CPUTotal: time.Duration(told.CPUTotalMS) * time.Millisecond,
		MemoryTotal: banger.Size(told.MemoryTotal), MemoryAvailable: banger.Size(told.MemoryAvailable), FileSystems: []banger.FileSystem{}}
	for _, fs := range told.FileSystems[:min(len(told.FileSystems), mostFileSystems)] {
		s.FileSystems = append(s.FileSystems, banger.FileSystem{Path: guest.Printable(fs.Path), Size: banger.Size(fs.Size), Used: banger.Size(fs.Used)})
	}
	return s, nil
}
