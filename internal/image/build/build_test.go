package build

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/config"
	"banger/internal/event"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/image"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/vm"
)

// world is a state directory, and a builder whose VMs are in memory.
type world struct {
	*testing.T
	*Builder
	vms *fakeVMs
}

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	dirs := config.Dirs{State: dir, Cache: dir, Config: dir, Runtime: dir}
	s, err := store.Open(t.Context(), dirs.DB())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	log := slog.New(slog.DiscardHandler)
	operations := &operation.Runner{Log: log}
	images := &image.Images{Dirs: dirs, Store: s, Log: log, Operations: operations, Events: event.NewHub(), Bundled: "docker"}
	for _, name := range []string{"docker", "imported"} {
		if err := s.PutImage(t.Context(), banger.Image{Name: name, ID: banger.Digest("sha256:" + strings.Repeat(name[:1], 64)), Size: 1, CreatedAt: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	vms := newFakeVMs(t, dirs)
	return &world{t, &Builder{Dirs: dirs, Config: config.Config{DefaultImage: "docker"}, Images: images, VMs: vms, Operations: operations, Log: log}, vms}
}

// left returns what a build must not leave: VMs, leases, images and unfinished files.
func (w *world) left() []string {
	left := slices.Clone(w.vms.all())
	for _, pattern := range []string{w.Dirs.Lease("*"), filepath.Join(w.Dirs.Images(), "*"), filepath.Join(w.Dirs.Images(), ".*")} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			w.Fatal(err)
		}
		left = append(left, files...)
	}
	images, err := w.Images.Store.KnownImages(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	for _, image := range images {
		left = append(left, image.Name)
	}
	return left
}

var aBuild = banger.BuildImage{Packages: []string{"jq"}, Script: "#!/bin/sh\n", Secrets: map[string]string{"token": "hidden"}}

// TestEveryStepOfABuildFails: whichever step of a verb fails, before or after it has done
// its work, nothing is left, and the next try succeeds.
func TestEveryStepOfABuildFails(t *testing.T) {
	verbs := map[string]func(*world) error{
		"build": func(w *world) error { _, err := w.BuildImage(w.Context(), "app", aBuild, nil); return err },
		"commit": func(w *world) error {
			_, err := w.CommitVM(w.Context(), "stopped", banger.CommitVM{Name: "app", WithHome: true}, nil)
			return err
		},
		"commit what runs": func(w *world) error {
			_, err := w.CommitVM(w.Context(), "otter", banger.CommitVM{Name: "app"}, nil)
			return err
		},
		"diff": func(w *world) error { _, err := w.DiffVM(w.Context(), "stopped", banger.DiffVM{}, nil); return err },
	}
	failed := errors.New("told to fail")
	for name, verb := range verbs {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before := w.left()
			var steps []string
			w.Operations.Before = func(step string) error { steps = append(steps, step); return nil }
			if err := verb(w); err != nil {
				t.Fatal(err)
			}
			for _, at := range steps {
				for _, after := range []bool{false, true} {
					w := newWorld(t)
					fail := func(step string) error {
						if step == at {
							return failed
						}
						return nil
					}
					if after {
						w.Operations.After = fail
					} else {
						w.Operations.Before = fail
					}
					err := verb(w)
					if after && (at == "record" || at == "remove the copy" && name == "diff") {
						continue // it is done
					}
					if !errors.Is(err, failed) {
						t.Errorf("%s: %v", at, err)
					}
					if left := w.left(); !slices.Equal(left, before) {
						t.Errorf("%s (after: %v) leaves %q, not %q", at, after, left, before)
					}
					w.Operations.Before, w.Operations.After = nil, nil
					if err := verb(w); err != nil {
						t.Errorf("again after %s: %v", at, err)
					}
				}
			}
		})
	}
}

// TestBuildInterrupted ends a build while its script runs.
func TestBuildInterrupted(t *testing.T) {
	w := newWorld(t)
	before := w.left()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spec := aBuild
	spec.Script = "sleep"
	_, err := w.BuildImage(ctx, "app", spec, func(s banger.Step) {
		if s.Output == "asleep" {
			cancel()
		}
	})
	if banger.KindOf(err) != banger.Canceled {
		t.Errorf("%v", err)
	}
	if left := w.left(); !slices.Equal(left, before) {
		t.Errorf("it leaves %q", left)
	}
	if text, err := os.ReadFile(w.Dirs.BuildLog("app")); err != nil || !strings.Contains(string(text), "asleep") {
		t.Errorf("the log: %q, %v", text, err)
	}
}

// TestBuildKnowsWhatHasChanged: only the same inputs are the same build.
func TestBuildKnowsWhatHasChanged(t *testing.T) {
	w := newWorld(t)
	build := func(change func(*banger.BuildImage)) banger.BuiltImage {
		t.Helper()
		spec := aBuild
		change(&spec)
		built, err := w.BuildImage(t.Context(), "app", spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		return built
	}
	same := func(*banger.BuildImage) {}
	build(same)
	if !build(same).Unchanged || !build(func(s *banger.BuildImage) { s.Secrets, s.Memory = nil, banger.GiB }).Unchanged {
		t.Error("it is built again")
	}
	for name, change := range map[string]func(*banger.BuildImage){
		"from": func(s *banger.BuildImage) { s.From = "imported" }, "packages": func(s *banger.BuildImage) { s.Packages = []string{"jq", "fd"} },
		"docker": func(s *banger.BuildImage) { s.Docker = true }, "script": func(s *banger.BuildImage) { s.Script = "#!/bin/bash\n" },
		"arguments": func(s *banger.BuildImage) { s.Args = []string{"A=b"} }, "rebuild": func(s *banger.BuildImage) { s.Rebuild = true },
	} {
		if build(change).Unchanged {
			t.Errorf("%s is no change", name)
		}
		build(same)
	}
	for _, name := range []string{"docker", "imported"} {
		if _, err := w.BuildImage(t.Context(), name, aBuild, nil); banger.KindOf(err) != banger.Conflict {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeptAfterAFailure: the VM of a build is kept for a client, but only if a program of
// the build has failed.
func TestKeptAfterAFailure(t *testing.T) {
	w := newWorld(t)
	spec := aBuild
	spec.VM, spec.Keep, spec.Script = "mine", "of a client", "fail"
	if _, err := w.BuildImage(t.Context(), "app", spec, nil); err == nil {
		t.Error("it did not fail")
	}
	if !slices.Contains(w.vms.all(), "mine") {
		t.Error("the VM is gone")
	}
	w.vms.DeleteVM(t.Context(), "mine", banger.DeleteVM{}, nil)
	spec.Script = "#!/bin/sh\n"
	w.Operations.Before = func(step string) error {
		if step == copyStep {
			return errors.New("told to fail")
		}
		return nil
	}
	if _, err := w.BuildImage(t.Context(), "app", spec, nil); err == nil || slices.Contains(w.vms.all(), "mine") {
		t.Errorf("%v, and %q are left", err, w.vms.all())
	}
}

func TestDifferences(t *testing.T) {
	file := func(kind wire.ChangeKind, path string, size int64) wire.Change {
		return wire.Change{Kind: kind, Path: []byte(path), Size: size, Dir: size < 0}
	}
	packages, files := differences([]wire.Change{
		file(wire.Added, "usr/share/x", -1), file(wire.Added, "usr/share/x/a", 10), file(wire.Added, "usr/share/x/b", 5), file(wire.Added, "usr/share/x-y", 1),
		file(wire.Added, "usr/bin/jq", 7), file(wire.Changed, "etc/issue", 3), file(wire.Deleted, "etc/\x1bmotd", 0), file(wire.Added, "usr/lib/old", 1),
		file(wire.Changed, "etc/machine-id", 1), file(wire.Changed, "etc/hosts", 1), file(wire.Added, "var/lib/dpkg/info/jq.list", 1), file(wire.Added, "lib/modules", -1), file(wire.Added, "lib/modules/6.12", -1), file(wire.Added, "var/lib/docker", -1),
		{Kind: wire.List, Text: []byte("/.\n/usr\n/usr/bin\n/usr/bin/jq\n/lib/old\n")},
		{Kind: wire.Database, Base: []byte("Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: install ok installed\nVersion: 1\n"),
			Text: []byte("Package: a\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: b\nStatus: install ok installed\nVersion: 2\nDescription: x\n Version: 9\n\nP:c\nV:3\n")},
	})
	if want := []banger.PackageChange{{Name: "a", Was: "1"}, {Name: "b", Was: "1", Now: "2"}, {Name: "c", Now: "3"}}; !slices.Equal(packages, want) {
		t.Errorf("packages %+v", packages)
	}
	want := []banger.FileChange{{Path: "/etc/motd", Change: "deleted"}, {Path: "/etc/issue", Change: "changed", Size: 3},
		{Path: "/usr/share/x", Change: "added", Dir: true, Files: 2, Size: 15}, {Path: "/usr/share/x-y", Change: "added", Size: 1}}
	if !slices.Equal(files, want) {
		t.Errorf("files %+v", files)
	}
}

// TestOutputIsBounded: a log ends at its limit, and a line for the client is short.
func TestOutputIsBounded(t *testing.T) {
	var lines []string
	op := (&operation.Runner{Log: slog.New(slog.DiscardHandler)}).Begin("image", banger.Build, "x", "", func(s banger.Step) { lines = append(lines, s.Output) })
	path := filepath.Join(t.TempDir(), "log")
	o, err := openLog(op, path)
	if err != nil {
		t.Fatal(err)
	}
	o.left = 5000
	for range 10 {
		o.out.Write([]byte("one\rtwo\x1b[2J\nthr"))
		o.out.Write([]byte("ee\n" + strings.Repeat("x", 900)))
	}
	o.over()
	o.end(nil)
	text, err := os.ReadFile(path)
	if err != nil || len(text) > 7000 || !strings.Contains(string(text), "The log ends here") || !strings.HasSuffix(string(text), "== done\n") {
		t.Errorf("the log has %d bytes, %v", len(text), err)
	}
	for _, line := range lines {
		if len(line) > maxLine || strings.ContainsAny(line, "\r\n\x1b") {
			t.Errorf("a line of %d bytes: %.50q", len(line), line)
		}
	}
	if lines[0] != "one" || lines[1] != "two[2J" || lines[2] != "three" {
		t.Errorf("lines: %.200q", lines)
	}
}

// fakeVMs are VMs in memory. Their guests know the programs of a build.
type fakeVMs struct {
	banger.VMService
	t    *testing.T
	dirs config.Dirs
	key  []byte
	pub  string
	host ssh.Signer
	vms  map[string]banger.VM
}

func newFakeVMs(t *testing.T, dirs config.Dirs) *fakeVMs {
	key, public, err := guest.NewKey("test")
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.ParsePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeVMs{t: t, dirs: dirs, key: key, pub: public, host: host, vms: map[string]banger.VM{}}
	f.add("otter", banger.Running)
	f.add("stopped", banger.Stopped)
	return f
}

func (f *fakeVMs) add(name string, state banger.State) banger.VM {
	vm := banger.VM{ID: banger.VMID(fmt.Sprintf("%012d", len(f.vms)+1)), Name: name, State: state, Image: "docker", KnownHosts: f.dirs.KnownHosts()}
	if err := guest.AddKnownHost(vm.KnownHosts, vm.ID, name, f.pub); err != nil {
		f.t.Fatal(err)
	}
	f.vms[name] = vm
	return vm
}

func (f *fakeVMs) all() (names []string) {
	for name := range f.vms {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (f *fakeVMs) ShowVM(_ context.Context, ref string) (banger.VM, error) {
	for _, vm := range f.vms {
		if ref == vm.Name || ref == string(vm.ID) {
			return vm, nil
		}
	}
	return banger.VM{}, banger.Refuse(banger.Reach, ref, banger.Gone)
}

func (f *fakeVMs) CreateHelper(_ context.Context, spec banger.CreateVM, _ vm.Helper, _ banger.Progress) (banger.VM, error) {
	return f.add(spec.Name, banger.Running), nil
}

func (f *fakeVMs) WaitVM(ctx context.Context, ref string, _ banger.WaitVM, _ banger.Progress) (banger.VM, error) {
	return f.ShowVM(ctx, ref)
}

func (f *fakeVMs) DeleteVM(ctx context.Context, ref string, _ banger.DeleteVM, _ banger.Progress) error {
	vm, err := f.ShowVM(ctx, ref)
	delete(f.vms, vm.Name)
	return err
}

func (f *fakeVMs) Key(string) ([]byte, error) { return f.key, nil }

func (f *fakeVMs) DialVM(context.Context, string, int) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // both ends of ssh write first, which a pipe does not take
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	theirs, err := l.Accept()
	if err == nil {
		go f.serve(theirs)
	}
	return ours, err
}

func (f *fakeVMs) serve(conn net.Conn) {
	server := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	server.AddHostKey(f.host)
	client, channels, requests, err := ssh.NewServerConn(conn, server)
	if err != nil {
		return
	}
	defer client.Close()
	go ssh.DiscardRequests(requests)
	for offer := range channels {
		if channel, requests, err := offer.Accept(); err == nil {
			go serveSession(channel, requests)
		}
	}
}

// script is the last that a guest was sent.
var script string

func serveSession(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for request := range requests {
		var program wire.Exec
		switch request.Type {
		case "subsystem":
			request.Reply(true, nil)
			serveExport(channel)
			return
		case wire.ExecRequest:
			json.Unmarshal(request.Payload, &program)
		}
		request.Reply(true, nil)
		last := string(program.Argv[len(program.Argv)-1])
		status := uint32(0)
		switch {
		case len(program.Argv) == 7:
			text, _ := io.ReadAll(channel)
			if string(program.Argv[4]) == scriptFile {
				script = string(text)
			}
		case last == scriptFile && script == "sleep":
			fmt.Fprintln(channel, "asleep")
			for range requests {
			}
			return
		case last == scriptFile && script == "fail":
			status = 1
		}
		channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

func serveExport(channel ssh.Channel) {
	var request wire.Export
	line, _ := bufio.NewReader(channel).ReadBytes('\n')
	json.Unmarshal(line, &request)
	if !request.Changes {
		w := tar.NewWriter(channel)
		w.WriteHeader(&tar.Header{Name: "bin/sh", Mode: 0o755, Size: 2})
		io.WriteString(w, "#!")
		w.Close()
	}
	channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
}
