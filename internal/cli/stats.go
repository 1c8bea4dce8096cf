package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

type statsOptions struct {
	*selection
	watch    bool
	interval time.Duration
}

func newStats(a *app) *cobra.Command {
	var opts statsOptions
	cmd := &cobra.Command{
		Use:     "stats",
		Short:   "Show what VMs use, on the host and inside",
		Long:    "Show what VMs use. Inside: uptime, CPU, load, memory, and how full / and /root are. On the host:\nCPU time and memory of the process that runs the VM, the memory that the guest has given back\n(balloon), the space that its disks take, and what it has received and sent over the network in\nall its runs. CPU is the share of all CPUs of the guest that it uses now, measured for a second;\nwith --watch, between two refreshes. JSON has the counters instead.",
		Example: "  banger vm stats calm-otter\n  banger vm stats --watch calm-otter spare\n  banger vm stats --json calm-otter\n  banger vm stats --all",
	}
	opts.selection = a.selectVMs(cmd, everyVM)
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		return a.runStats(cmd.Context(), names, opts)
	}
	cmd.Flags().BoolVarP(&opts.watch, "watch", "w", false, "refresh until interrupted")
	cmd.Flags().DurationVar(&opts.interval, "interval", 2*time.Second, "how often --watch refreshes")
	a.addJSON(cmd)
	return cmd
}

func (a *app) runStats(ctx context.Context, names []string, opts statsOptions) error {
	const shortest = 100 * time.Millisecond
	if opts.interval < shortest {
		return banger.Invalidf("--interval 1s", "--interval must be at least %v", shortest)
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	named, err := opts.names(ctx, a, svc, names)
	if err != nil || len(named) == 0 {
		return err
	}
	last := map[banger.VMID]banger.GuestStats{}
	if !opts.watch {
		if err := a.sampleCPU(ctx, svc, opts, named, last); err != nil {
			return err
		}
		return a.showStats(a.std.Out, forSelected(ctx, opts.selection, named, svc.VMStats), last)
	}
	tick := time.NewTicker(opts.interval)
	defer tick.Stop()
	for {
		results := forSelected(ctx, opts.selection, named, svc.VMStats)
		if ctx.Err() != nil {
			return exitStatus(exitInterrupted)
		}
		if a.std.OutTTY && !a.json {
			fmt.Fprint(a.std.Out, "\x1b[H\x1b[2J")
		}
		if err := a.showStats(a.std.Out, results, last); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return exitStatus(exitInterrupted)
		}
		if named, err = opts.names(ctx, a, svc, names); err != nil {
			return err
		}
	}
}

// sampleTime is how long CPU time is measured.
const sampleTime = time.Second

// sampleCPU notes in last what guests have used so far, and lets them use more.
func (a *app) sampleCPU(ctx context.Context, svc service, opts statsOptions, names []string, last map[banger.VMID]banger.GuestStats) error {
	if a.json {
		return nil
	}
	for _, r := range forSelected(ctx, opts.selection, names, svc.VMStats) {
		if r.err == nil && r.value.Guest != nil {
			last[r.value.ID] = *r.value.Guest
		}
	}
	if len(last) == 0 {
		return nil
	}
	timer := time.NewTimer(sampleTime)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return exitStatus(exitInterrupted)
	}
}

// showStats prints a table. It replaces in last what each guest reported before.
func (a *app) showStats(out io.Writer, results []result[banger.VMStats], last map[banger.VMID]banger.GuestStats) error {
	rows := [][]string{{"NAME", "STATE", "UPTIME", "CPU", "LOAD", "MEMORY", "/", "/root", "CPU TIME", "RESIDENT", "BALLOON", "OVERLAY", "WORK DISK", "RECEIVED", "SENT"}}
	failed := showResults(a, results, func(_ string, s banger.VMStats) error {
		if a.json {
			return a.printJSON(s)
		}
		rows = append(rows, statsRow(s, last[s.ID]))
		if s.Guest != nil {
			last[s.ID] = *s.Guest
		}
		return nil
	})
	if len(rows) > 1 {
		if err := table(out, rows); err != nil {
			return err
		}
	}
	return failed
}

// statsRow returns a row with a dash for what is not known.
func statsRow(s banger.VMStats, last banger.GuestStats) []string {
	row := []string{s.Name, string(s.State), "-", "-", "-", "-", "-", "-", "-", "-", "-", s.OverlayOnHost.String(), s.DiskOnHost.String(), s.NetworkReceived.String(), s.NetworkSent.String()}
	if s.PID != 0 {
		row[8], row[9] = s.CPUTime.Round(time.Second).String(), s.Resident.String()
	}
	if s.Balloon != nil {
		row[10] = s.Balloon.String()
	}
	g := s.Guest
	if g == nil {
		return row
	}
	row[2] = g.Uptime.Round(time.Second).String()
	row[3] = busy(*g, last)
	row[4] = fmt.Sprintf("%.2f", g.Load[0])
	row[5] = portion(g.MemoryTotal-g.MemoryAvailable, g.MemoryTotal)
	for _, fs := range g.FileSystems {
		switch fs.Path {
		case "/":
			row[6] = portion(fs.Used, fs.Size)
		case "/root":
			row[7] = portion(fs.Used, fs.Size)
		}
	}
	return row
}

// busy returns the share of its CPUs that a guest has used since the last time, or a dash
// if that is not known: it has rebooted since, or was not asked.
func busy(now, last banger.GuestStats) string {
	if last.CPUTotal == 0 || last.CPUTotal >= now.CPUTotal || last.CPUBusy > now.CPUBusy {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(now.CPUBusy-last.CPUBusy)/float64(now.CPUTotal-last.CPUTotal))
}

func portion(used, of banger.Size) string { return used.String() + "/" + of.String() }
