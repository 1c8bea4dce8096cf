package vm

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"banger"
	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/guest/wire"
)

// TestNoSpaceAtAnyStep: a verb that meets a full disk names the file system to free,
// whichever step it is.
func TestNoSpaceAtAnyStep(t *testing.T) {
	for _, name := range []string{"create", "start", "restart what is stopped", "set", "rename", "fsck", "stop"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			verb := verbs[name]
			w.begin(verb)
			steps := 0
			w.Operations.Before = func(string) error { steps++; return nil }
			if err := verb.do(t.Context(), w.VMs); err != nil {
				t.Fatal(err)
			}
			for n := range steps {
				w.Operations.Before = nil
				w.begin(verb)
				step := ""
				w.Operations.Before = func(now string) error {
					if n--; n != -1 {
						return nil
					}
					step = now
					return &os.PathError{Op: "write", Path: "/state/file", Err: syscall.ENOSPC}
				}
				err := verb.do(t.Context(), w.VMs)
				if step == verb.despite && step != "" {
					continue
				}
				if banger.KindOf(err) != banger.Unready || !strings.HasPrefix(banger.FixOf(err), "free space on /") {
					t.Errorf("%s: %v (%s), fix %q", step, err, banger.KindOf(err), banger.FixOf(err))
				}
			}
		})
	}
}

// TestFullDiskIsTheFix: a log is no fix for a disk that is full, and what a guest says of
// its own disks is not about the host's.
func TestFullDiskIsTheFix(t *testing.T) {
	v := &VMs{Env: Env{Dirs: config.Dirs{State: t.TempDir()}}}
	for _, c := range []struct {
		err  error
		want string
	}{
		{&banger.Error{Kind: banger.Unready, What: "launch QEMU", Why: errors.New("it exited at once: No space left on device"), Fix: "less /vms/qemu.log"}, "free space on /"},
		{&banger.Error{Why: syscall.EDQUOT, Fix: "wait for a sysadmin"}, "wait for a sysadmin"},
		{errors.New("no such device"), "less "},
		{&guest.BootError{Failure: wire.Failure{Step: "mount", Why: "no space left on device"}}, "less "},
	} {
		if err := v.explain(c.err, "/vms/console.log"); !strings.HasPrefix(banger.FixOf(err), c.want) {
			t.Errorf("%v: fix %q, want %q", err, banger.FixOf(err), c.want)
		}
	}
}
