package vm

import (
	"context"
	"errors"
	"io"
	"os"

	"banger"
)

// VMLogs implements banger.VMService.
func (v *VMs) VMLogs(ctx context.Context, ref string, opts banger.VMLogs) (io.ReadCloser, error) {
	o, err := v.find(ref)
	if err != nil {
		return nil, err
	}
	row, _, _ := o.now()
	path := o.dir().Console()
	switch opts.Kind {
	case banger.ConsoleLog, "":
	case banger.VMMLog:
		path = o.dir().VMMLog(row.Driver)
	default:
		return nil, banger.Invalidf("use console or vmm", "there is no log %q", opts.Kind)
	}
	if opts.Follow {
		return v.logs.Follow(ctx, path)
	}
	log, err := v.logs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &banger.Error{Kind: banger.NotFound, Why: errors.New("the VM has no log: it was never started"), Fix: "banger vm start " + row.Name}
	}
	return log, err
}
