package build

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/image"
	"banger/internal/lease"
	"banger/internal/operation"
	"banger/internal/vm"
)

// machine is a VM that an image is made in or from.
type machine struct {
	banger.VM
	vms   VMs
	key   []byte       // with which the daemon logs in
	lease *lease.Lease // nil: somebody else ends the VM
}

// madeUp returns a name for a VM that is about an image or another VM.
func madeUp(verb, about string) string {
	const longest = 40
	text := make([]byte, 2)
	rand.Read(text)
	about = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, about)
	return verb + "-" + strings.Trim(about[:min(len(about), longest)], "-") + "-" + hex.EncodeToString(text)
}

// startMachine makes a helper VM. Without a lease of a client it has one of the daemon's
// own: if the daemon is killed, the next one deletes the VM.
func (b *Builder) startMachine(ctx context.Context, op *operation.Operation, spec banger.CreateVM, how vm.Helper) (_ *machine, err error) {
	m := &machine{vms: b.VMs}
	if spec.Lease == "" {
		if m.lease, err = lease.Take(b.Dirs); err != nil {
			return nil, err
		}
		spec.Lease = m.lease.Name
	}
	m.VM, err = b.VMs.CreateHelper(ctx, spec, how, func(s banger.Step) {
		if s.Note != "" {
			op.Progress(startStep, s.Note)
		}
	})
	if err != nil {
		m.lease.Drop()
		return nil, err
	}
	if m.key, err = b.VMs.Key(string(m.ID)); err != nil {
		return nil, joinRemoved(ctx, err, m)
	}
	return m, nil
}

func joinRemoved(ctx context.Context, err error, m *machine) error {
	if failed := m.remove(context.WithoutCancel(ctx)); failed != nil {
		return fmt.Errorf("%w; and then: %w", err, failed)
	}
	return err
}

// running returns a VM of a user that runs.
func (b *Builder) running(vm banger.VM) (*machine, error) {
	key, err := b.VMs.Key(string(vm.ID))
	return &machine{VM: vm, vms: b.VMs, key: key}, err
}

// remove deletes a helper. It may be called twice.
func (m *machine) remove(ctx context.Context) error {
	err := m.vms.DeleteVM(ctx, string(m.ID), banger.DeleteVM{Force: true}, nil)
	if err == nil || banger.KindOf(err) == banger.NotFound {
		m.lease.Drop()
		return nil
	}
	return err
}

// exec runs a program as root and returns its exit status. It is ended with ctx.
func (m *machine) exec(ctx context.Context, program wire.Exec, in io.Reader, out, errs io.Writer) (int, error) {
	conn, err := m.vms.DialVM(ctx, string(m.ID), wire.PortSSH)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return guest.Exec(ctx, conn, m.VM, program, guest.Session{Stdin: in, Stdout: out, Stderr: errs, Key: m.key})
}

// export opens an export of the VM's system.
func (m *machine) export(ctx context.Context, what wire.Export) (*guest.Exported, error) {
	conn, err := m.vms.DialVM(ctx, string(m.ID), wire.PortSSH)
	if err != nil {
		return nil, err
	}
	return guest.Export(ctx, conn, m.VM, m.key, what)
}

// draft makes the files of an image of the VM's system.
func (m *machine) draft(ctx context.Context, images *image.Images, name, origin string, what wire.Export) (*image.Draft, error) {
	files, err := m.export(ctx, what)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	return images.Draft(ctx, name, origin, files)
}
