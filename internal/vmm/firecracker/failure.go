package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// check returns an error for what Firecracker would accept, or refuse in words that do not
// help.
func check(spec vmm.Spec) error {
	if spec.VCPUs < 1 || spec.VCPUs > maxVCPUs {
		return banger.Invalidf("banger vm set --vcpu 2 "+spec.Name, "Firecracker gives a VM 1 to %d vCPUs, not %d", maxVCPUs, spec.VCPUs)
	}
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return err
	}
	if all := banger.Size(host.Totalram) * banger.Size(host.Unit); spec.Memory < banger.MiB || spec.Memory > all {
		return banger.Invalidf("banger vm set --memory 1G "+spec.Name, "the VM needs %s of memory, but this host has %s", spec.Memory, all)
	}
	files := []string{spec.Kernel, spec.Initrd}
	for _, disk := range spec.Disks {
		files = append(files, disk.File)
	}
	for _, name := range files {
		file, err := os.Open(filepath.Join(spec.Dir, name))
		if err != nil {
			return &banger.Error{Kind: banger.Unready, What: "launch Firecracker", Why: err, Fix: fixOfFile(err, filepath.Join(spec.Dir, name))}
		}
		file.Close()
	}
	return nil
}

func fixOfFile(err error, path string) string {
	if errors.Is(err, fs.ErrPermission) {
		return "sudo chown $USER " + path
	}
	return "put " + path + " back, from a backup if it is a disk"
}

// explainFork returns why the process could not be started.
func explainFork(err error, p program) error {
	fix := installFix
	if errors.Is(err, fs.ErrPermission) {
		fix = "chmod a+x " + p.path
	}
	return &banger.Error{Kind: banger.Unready, What: "launch Firecracker", Why: err, Fix: fix}
}

// fixes are the fixes of refusals, by words in them. The first match counts.
var fixes = []struct{ words, fix string }{
	{"/dev/kvm", process.JoinKVM},
	{"Error creating KVM object", process.JoinKVM},
	{"Invalid Elf magic", "make runtime, for a kernel that is an uncompressed vmlinux"},
	{"Cannot allocate memory", "free memory on this host, or give the VM less: banger vm set --memory"},
}

// explain returns why a Firecracker that was started does not run its VM.
// from is how long its console was before.
func explain(ctx context.Context, err error, proc *process.Process, dir *process.Dir, spec vmm.Spec, from int64) error {
	if ctx.Err() != nil {
		return fmt.Errorf("launch Firecracker: %w", ctx.Err())
	}
	if refused := (*fault)(nil); !errors.As(err, &refused) {
		select { // it may have closed its sockets, and end soon
		case <-proc.Done():
			if failed := process.EntryError(proc.Exit(), dir.Path(spec.Console), from); failed != nil && spec.Inside != nil {
				return failed
			}
			err = endedAtOnce(proc, dir, spec)
		case <-ctx.Done():
			return fmt.Errorf("launch Firecracker: %w", ctx.Err())
		case <-time.After(time.Second):
		}
	}
	if tap := process.ExplainTap(err.Error(), spec); tap != nil {
		return tap
	}
	return &banger.Error{Kind: banger.Unready, What: "launch Firecracker", Why: err, Fix: fixOf(err, spec)}
}

func endedAtOnce(proc *process.Process, dir *process.Dir, spec vmm.Spec) error {
	why := "it exited at once"
	if detail := proc.Exit().Detail; detail != "" {
		why += ": " + detail
	}
	for _, name := range []string{spec.Log, spec.Console} {
		if said := lastWords(dir.Path(name)); said != "" {
			return fmt.Errorf("%s: %s", why, said)
		}
	}
	return errors.New(why)
}

func fixOf(err error, spec vmm.Spec) string {
	for _, known := range fixes {
		if strings.Contains(err.Error(), known.words) {
			return known.fix
		}
	}
	return "less " + filepath.Join(spec.Dir, spec.Log)
}

// lastLines returns the last lines of a log, without their time stamps.
func lastLines(path string) (lines []string) {
	for _, line := range process.LastLines(path, 0) {
		if text := oneLine(withoutStamp(line)); text != "" {
			lines = append(lines, text)
		}
	}
	return lines
}

// withoutStamp removes "2026-11-24T14:27:26.332219536 [id:thread] " off a line.
func withoutStamp(line string) string {
	if len(line) > 20 && line[4] == '-' && line[10] == 'T' {
		if _, text, found := strings.Cut(line, "] "); found {
			return text
		}
	}
	return line
}

func lastWords(path string) string {
	lines := lastLines(path)
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}
