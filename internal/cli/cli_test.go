package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/internal/event"
)

// fakeDaemon keeps VMs in memory and answers as the daemon's client does.
type fakeDaemon struct {
	pulled     []banger.PullImage
	madeAt     time.Time // when the image was made that a pull returns
	clean      bool      // nothing is left to prune
	mu         sync.Mutex
	vms        map[string]banger.VM
	created    int
	made       banger.VM // what create returns, if set
	waited     []banger.WaitVM
	hang       chan struct{} // closed by an operation that then waits to be canceled
	deaf       chan struct{} // if set, a canceled operation continues until it is closed
	idempotent bool          // a start of a running VM and a stop of a stopped one succeed
	down       time.Duration // how much later than before such a VM runs: it was shutting down
	running    bool
	logs       string
	guest      func(banger.VM) (net.Conn, error)
	looked     func(times int) // by stats
	works      time.Duration   // grows with each call of VMStats
	looks      int
	ports      []banger.Forward
	took       []string // the requests, as text

	banger.BuildService

	hub      *event.Hub
	kernels  []banger.Kernel
	imported []importedFile
}

// importedFile is an import as the daemon receives it.
type importedFile struct {
	spec banger.ImportImage
	data string
}

func newFake(vms ...banger.VM) *fakeDaemon {
	f := &fakeDaemon{vms: map[string]banger.VM{}, running: true}
	for _, vm := range vms {
		f.vms[vm.Name] = vm
	}
	return f
}

func aVM(name string, state banger.State) banger.VM {
	return banger.VM{ID: banger.VMID(fmt.Sprintf("%012x", len(name))), Name: name, State: state, Image: "docker", VCPUs: 1,
		Memory: banger.GiB, Disk: 16 * banger.GiB, Overlay: 8 * banger.GiB, Driver: "qemu", Network: banger.Network{Mode: "none", NAT: true},
		CreatedAt: time.Now().Add(-3 * time.Hour)}
}

func (f *fakeDaemon) find(ref, verb string) (banger.VM, error) {
	vm, ok := f.vms[ref]
	for _, other := range f.vms {
		if string(other.ID) == ref {
			vm, ok = other, true
		}
	}
	if !ok {
		return vm, &banger.Error{Kind: banger.NotFound, What: fmt.Sprintf("%s VM %q", verb, ref), Why: errors.New("there is no such VM"), Fix: "banger vm list"}
	}
	return vm, nil
}

func (f *fakeDaemon) change(ref, verb string, to banger.State, from ...banger.State) (banger.VM, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	vm, err := f.find(ref, verb)
	if err != nil {
		return vm, err
	}
	if len(from) > 0 && vm.State != from[0] {
		return vm, &banger.Error{Kind: banger.Conflict, What: fmt.Sprintf("%s VM %q", verb, ref), Why: fmt.Errorf("the VM is %s", vm.State)}
	}
	vm.State = to
	f.vms[ref] = vm
	return vm, nil
}

// hangs waits, if hang is set, until an operation is canceled.
func (f *fakeDaemon) hangs(ctx context.Context, what string) error {
	if f.hang == nil {
		return nil
	}
	close(f.hang)
	<-ctx.Done()
	if f.deaf != nil {
		<-f.deaf
	}
	return &banger.Error{Kind: banger.Canceled, What: what, Why: ctx.Err()}
}

func (f *fakeDaemon) CreateVM(ctx context.Context, spec banger.CreateVM, p banger.Progress) (banger.VM, error) {
	if err := f.hangs(ctx, "create VM \""+spec.Name+"\""); err != nil {
		return banger.VM{}, err
	}
	p.Send(banger.Step{VM: spec.Name, Step: "boot"})
	p.Send(banger.Step{VM: spec.Name, Step: "boot", Done: true, Took: 1200 * time.Millisecond})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.took = append(f.took, asJSON("create", spec))
	if spec.Name == "" {
		f.created++
		spec.Name = fmt.Sprintf("made-up-%d", f.created)
	}
	if _, ok := f.vms[spec.Name]; ok {
		return banger.VM{}, &banger.Error{Kind: banger.Conflict, What: fmt.Sprintf("create VM %q", spec.Name), Why: errors.New("the name is taken"), Fix: "choose another --name"}
	}
	state := banger.Running
	if spec.NoStart {
		state = banger.Stopped
	}
	vm := aVM(spec.Name, state)
	vm.ID = banger.VMID(vm.Name) // so that deletion by ID finds it
	if f.made.Name != "" {
		vm = f.made
	}
	f.vms[vm.Name] = vm
	return vm, nil
}

func (f *fakeDaemon) ListVMs(context.Context) ([]banger.VM, error) {
	var list []banger.VM
	for _, name := range []string{"otter", "wombat"} {
		if vm, ok := f.vms[name]; ok {
			list = append(list, vm)
		}
	}
	return list, nil
}

func (f *fakeDaemon) SummarizeVMs(ctx context.Context) ([]banger.VMSummary, error) {
	vms, err := f.ListVMs(ctx)
	var list []banger.VMSummary
	for _, vm := range vms {
		list = append(list, banger.VMSummary{Name: vm.Name, State: vm.State, Image: vm.Image, VCPUs: vm.VCPUs,
			Memory: vm.Memory, Disk: vm.Disk, CreatedAt: vm.CreatedAt, Ending: vm.Ending, Problems: vm.Problems})
	}
	return list, err
}

func (f *fakeDaemon) ShowVM(_ context.Context, ref string) (banger.VM, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(ref, "show")
}

func (f *fakeDaemon) StartVM(ctx context.Context, ref string, _ banger.StartVM, _ banger.Progress) (banger.VM, error) {
	if vm := f.vms[ref]; f.idempotent && vm.State.Up() {
		vm.StartedAt = vm.StartedAt.Add(f.down)
		return vm, nil
	}
	if err := f.hangs(ctx, "start"); err != nil {
		return banger.VM{}, err
	}
	return f.change(ref, "start", banger.Running, banger.Stopped)
}

func (f *fakeDaemon) StopVM(ctx context.Context, ref string, _ banger.StopVM, _ banger.Progress) (banger.VM, error) {
	if vm := f.vms[ref]; f.idempotent && vm.State == banger.Stopped {
		return vm, nil
	}
	if err := f.hangs(ctx, "stop"); err != nil {
		return banger.VM{}, err
	}
	return f.change(ref, "stop", banger.Stopped, banger.Running)
}

func (f *fakeDaemon) RestartVM(_ context.Context, ref string, _ banger.StopVM, _ banger.Progress) (banger.VM, error) {
	return f.change(ref, "restart", banger.Running)
}

func (f *fakeDaemon) WaitVM(ctx context.Context, ref string, opts banger.WaitVM, _ banger.Progress) (banger.VM, error) {
	if err := f.hangs(ctx, "wait"); err != nil {
		return banger.VM{}, err
	}
	f.waited = append(f.waited, opts)
	return f.change(ref, "wait for", banger.Running, banger.Running)
}

func (f *fakeDaemon) SetVM(_ context.Context, ref string, opts banger.SetVM, _ banger.Progress) (banger.VM, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	vm, err := f.find(ref, "set")
	if err != nil {
		return vm, err
	}
	f.took = append(f.took, asJSON("set "+ref, opts))
	vm.Memory = max(vm.Memory, opts.Memory)
	f.vms[vm.Name] = vm
	return vm, nil
}

func (f *fakeDaemon) KillVM(_ context.Context, ref string, opts banger.KillVM, _ banger.Progress) (banger.VM, error) {
	f.took = append(f.took, "kill "+ref+" "+opts.Signal)
	return f.change(ref, "kill", banger.Stopped, banger.Running)
}

func (f *fakeDaemon) FsckVM(_ context.Context, ref string, opts banger.FsckVM, _ banger.Progress) (banger.Fsck, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.took = append(f.took, asJSON("fsck "+ref, opts))
	vm, err := f.find(ref, "fsck")
	work := banger.FsckDisk{Disk: "work", Result: banger.FsckDamaged, Why: "work.ext4 has errors\x1b[2J"}
	if opts.Yes {
		work = banger.FsckDisk{Disk: "work", Result: banger.FsckRepaired, Copy: "/vms/work.ext4.before-fsck"}
	}
	return banger.Fsck{ID: vm.ID, Name: vm.Name, Disks: []banger.FsckDisk{{Disk: "overlay", Result: banger.FsckClean}, work}}, err
}

func (f *fakeDaemon) RenameVM(_ context.Context, ref string, opts banger.RenameVM, progress banger.Progress) (banger.VM, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	vm, err := f.find(ref, "rename")
	if err != nil {
		return vm, err
	}
	delete(f.vms, vm.Name)
	if vm.Name == "kestrel" {
		progress(banger.Step{Step: banger.StepTellGuest, Note: "the host name inside stays kestrel"})
	}
	vm.Name = opts.Name
	f.vms[vm.Name] = vm
	return vm, nil
}

func (f *fakeDaemon) VMStats(_ context.Context, ref string) (banger.VMStats, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looks++; f.looked != nil {
		f.looked(f.looks)
	}
	vm, err := f.find(ref, "look at")
	if err != nil {
		return banger.VMStats{}, err
	}
	s := banger.VMStats{ID: vm.ID, Name: vm.Name, State: vm.State, OverlayOnHost: 5 * banger.MiB, DiskOnHost: 6 * banger.MiB,
		NetworkReceived: 7 * banger.MiB, NetworkSent: 8 * banger.MiB}
	if vm.State == banger.Running {
		f.works++
		s.PID, s.CPUTime, s.Resident = 9, 3*time.Second, 600*banger.MiB
		s.Launched, s.Balloon = banger.GiB, new(banger.Size)
		*s.Balloon = 256 * banger.MiB
		s.Guest = &banger.GuestStats{Uptime: time.Minute,
			CPUs: 2, CPUBusy: 3*time.Second + 9*time.Second*f.works, CPUTotal: 90*time.Second + 10*time.Second*f.works, Load: [3]float64{0.5, 1, 2}, MemoryTotal: banger.GiB, MemoryAvailable: banger.GiB / 4,
			FileSystems: []banger.FileSystem{{Path: "/", Size: 8 * banger.GiB, Used: banger.GiB}, {Path: "/root", Size: 16 * banger.GiB, Used: 2 * banger.GiB}}}
	}
	return s, nil
}

func (f *fakeDaemon) VMPorts(_ context.Context, ref string) (banger.VMPorts, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	vm, err := f.find(ref, "look at")
	p := banger.VMPorts{ID: vm.ID, Name: vm.Name, State: vm.State, Ports: f.ports}
	if vm.State == banger.Stopped {
		p.Ports = []banger.Forward{}
	}
	return p, err
}

func (f *fakeDaemon) DeleteVM(_ context.Context, ref string, opts banger.DeleteVM, _ banger.Progress) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	vm, err := f.find(ref, "delete")
	if err != nil {
		return err
	}
	if vm.State == banger.Running && !opts.Force {
		return banger.Refuse(banger.Delete, ref, vm.State)
	}
	delete(f.vms, vm.Name)
	return nil
}

func (f *fakeDaemon) VMLogs(_ context.Context, ref string, opts banger.VMLogs) (io.ReadCloser, error) {
	if _, err := f.find(ref, "read the log of"); err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(string(opts.Kind) + ":\n" + f.logs)), nil
}

func (f *fakeDaemon) DialVM(_ context.Context, ref string, _ int) (net.Conn, error) {
	vm, err := f.find(ref, "dial")
	if err != nil {
		return nil, err
	}
	return f.guest(vm)
}

func (f *fakeDaemon) Daemon(context.Context) (banger.Daemon, error) {
	return banger.Daemon{PID: 42, Version: "1", Socket: "/run/b.sock", Log: "/state/bangerd.log", Driver: "qemu"}, nil
}

func (f *fakeDaemon) RenumberNetwork(_ context.Context, opts banger.RenumberNetwork, _ banger.Progress) (banger.Renumbered, error) {
	done := banger.Renumbered{Was: netip.MustParsePrefix("10.200.0.0/20"), Now: netip.MustParsePrefix("10.201.0.0/20")}
	if opts.Subnet != "" {
		done.Now, done.Later = netip.MustParsePrefix(opts.Subnet), []string{"otter", "wombat"}
	}
	return done, nil
}

func (f *fakeDaemon) StopDaemon(context.Context) error { f.running = false; return nil }

func (f *fakeDaemon) ListImages(context.Context) ([]banger.Image, error) {
	return []banger.Image{{Name: "docker", ID: "sha256:0123456789abcdef", Size: 429 * banger.MiB, Origin: "debian trixie", CreatedAt: time.Now(),
		Use: &banger.Use{OnHost: 400 * banger.MiB, VMs: []string{"otter", "wombat"}}}}, nil
}
func (f *fakeDaemon) ImportImage(_ context.Context, spec banger.ImportImage, _ banger.Progress) (banger.Image, error) {
	data, err := os.ReadFile(spec.File)
	f.imported = append(f.imported, importedFile{spec, string(data)})
	return banger.Image{Name: spec.Name, ID: "sha256:0123456789abcdef", Size: banger.GiB, Origin: spec.Origin}, err
}
func (f *fakeDaemon) PullImage(_ context.Context, spec banger.PullImage, p banger.Progress) (banger.Image, error) {
	f.pulled = append(f.pulled, spec)
	p.Send(banger.Step{Step: "download"})
	p.Send(banger.Step{Step: "download", Moved: banger.MiB, Total: 2 * banger.MiB})
	p.Send(banger.Step{Step: "download", Done: true})
	return banger.Image{Name: "app-1", ID: "sha256:0123456789abcdef", Size: banger.GiB, Origin: spec.Ref, CreatedAt: f.madeAt}, nil
}
func (f *fakeDaemon) PruneImages(_ context.Context, opts banger.PruneImages, _ banger.Progress) (banger.Pruned, error) {
	if f.clean {
		return banger.Pruned{Items: []banger.PrunedItem{}}, nil
	}
	f.clean = !opts.DryRun
	return banger.Pruned{Items: []banger.PrunedItem{{Kind: banger.PrunedImage, Name: "box", Size: banger.GiB}, {Kind: banger.PrunedDownload, Name: "0123456789ab", Size: banger.MiB}}, Freed: banger.GiB + banger.MiB}, nil
}
func (f *fakeDaemon) DeleteImage(context.Context, string, banger.Progress) error { return nil }
func (f *fakeDaemon) Events(ctx context.Context) iter.Seq2[banger.Event, error] {
	return f.hub.Read(ctx)
}
func (f *fakeDaemon) ListKernels(context.Context) ([]banger.Kernel, error) { return f.kernels, nil }

// run is the result of one run of the program.
type run struct {
	code        int
	out, errOut string
}

type setup struct {
	in      string
	tty     bool // all three streams are terminals
	signals chan os.Signal
	spawn   func([]string, <-chan os.Signal) (int, error)
	quit    func(code int)
	stdin   io.Reader // instead of in
	stdout  io.Writer // instead of run.out
	config  string    // XDG_CONFIG_HOME
	env     map[string]string
}

func (f *fakeDaemon) run(t *testing.T, s setup, args ...string) run {
	t.Helper()
	var out, errOut bytes.Buffer
	home := t.TempDir()
	env := map[string]string{"HOME": home, "XDG_RUNTIME_DIR": home, "XDG_CONFIG_HOME": s.config, "EMPTY": ""}
	maps.Copy(env, s.env)
	a := &app{
		std: Std{In: strings.NewReader(s.in), Out: &out, Err: &errOut, InTTY: s.tty, OutTTY: s.tty, ErrTTY: s.tty,
			Signals: s.signals, Getenv: func(key string) string { return env[key] },
			LookupEnv: func(key string) (string, bool) { value, ok := env[key]; return value, ok }},
		connect: func(_ context.Context, mode start) (service, error) {
			if !f.running && mode == noStart {
				return nil, &banger.Error{Kind: banger.NotFound, What: "find the daemon", Why: errors.New("none is running"), Fix: "banger vm list"}
			}
			return f, nil
		},
		replace: func(_ string, argv, _ []string) error {
			fmt.Fprintln(&out, strings.Join(argv, "\x1f"))
			return nil
		},
		spawn: s.spawn,
		quit:  s.quit,
	}
	if s.stdin != nil {
		a.std.In = s.stdin
	}
	if s.stdout != nil {
		a.std.Out = s.stdout
	}
	if s.quit == nil {
		a.quit = func(code int) { t.Errorf("quit with %d", code) }
	}
	code := a.main(context.Background(), args)
	return run{code, out.String(), errOut.String()}
}

func (r run) want(t *testing.T, code int, out, errOut string) {
	t.Helper()
	if r.code != code || r.out != out || r.errOut != errOut {
		t.Errorf("got exit code %d\nstdout %q\nstderr %q\nwant %d\nstdout %q\nstderr %q", r.code, r.out, r.errOut, code, out, errOut)
	}
}

func TestWaitFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"vm", "start", "--wait", "boot", "wombat"}, "boot", 0},
		{[]string{"vm", "start", "--wait", "agent", "wombat"}, "", 0},
		{[]string{"vm", "start", "--wait", "lunch", "wombat"}, "", 2},
		{[]string{"vm", "wait", "--for", "stopped", "otter"}, "stopped", 0},
		{[]string{"vm", "create", "--no-start", "--wait", "boot"}, "", 2},
	} {
		f := newFake(aVM("otter", banger.Running), aVM("wombat", banger.Stopped))
		code := f.run(t, setup{}, c.args...).code
		got := ""
		for _, w := range f.waited {
			got += string(w.For)
		}
		if code != c.code || got != c.want {
			t.Errorf("%q: exit %d, waited for %q; want %d, %q", c.args, code, got, c.code, c.want)
		}
	}
}

func asJSON(verb string, options any) string {
	text, _ := json.Marshal(options)
	return verb + " " + string(text)
}
