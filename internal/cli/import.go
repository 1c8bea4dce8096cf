package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func newImport(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "import NAME FILE",
		Short:   "Create an image from a file",
		Long:    "Create an image from a root file system in a tar archive or in an ext4 file, or from an\nimage of a container: an OCI layout, also as a directory, or what docker save writes. A\nfile may be compressed by gzip, bzip2, xz or zstd; - is standard input, as in\n`docker save box | banger image import box -`. It needs no init, kernel or SSH server. Host\nkeys, logs and other files that belong to one machine are left out, except from ext4.",
		Example: "  banger image import debian rootfs.tar.xz\n  banger image import --json box -\n  banger image import app ./oci-layout",
		Args:    args(2, 2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runImport(cmd.Context(), args[0], args[1])
		},
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runImport(ctx context.Context, name, file string) error {
	if err := banger.CheckImageName(name); err != nil {
		return err
	}
	began := time.Now()
	spec := banger.ImportImage{Name: name}
	var err error
	if file == "-" {
		spooled, failed := a.spool(ctx)
		if failed != nil {
			return failed
		}
		defer spooled.Close()
		spec.File, spec.Origin = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), spooled.Fd()), "standard input"
	} else if spec.File, err = filepath.Abs(file); err != nil {
		return err
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	p := a.newProgress(undone)
	image, err := svc.ImportImage(ctx, spec, p.event)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(image)
	}
	if err := a.say(image.Name, "imported "+image.Size.String()+a.took(" in ", time.Since(began))); err != nil {
		return err
	}
	a.hint("banger vm create --image %s", image.Name)
	return nil
}

// spool copies standard input to a file without a name, which vanishes with this
// process. The daemon opens it by its descriptor.
func (a *app) spool(ctx context.Context) (*os.File, error) {
	if a.std.InTTY {
		return nil, banger.Invalidf("docker export box | banger image import box -", "standard input is a terminal, not an archive")
	}
	dirs, err := a.dirs()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dirs.Cache, 0o700); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dirs.Cache, "import-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(file, a.std.In)
		copied <- err
	}()
	select {
	case err = <-copied:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		return file, nil
	}
	file.Close()
	e := &banger.Error{What: "read standard input", Why: err}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Kind, e.Fix = banger.Unready, "free space in "+dirs.Cache
	}
	return nil, e
}

func newImageDelete(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete NAME...",
		Aliases: []string{"rm"},
		Short:   "Delete images that no VM uses",
		Long: "Delete images that no VM uses. If an image has several names, only the given one is deleted.\n" +
			"The image of the runtime bundle comes back when the daemon starts again.",
		Example:           "  banger image delete box\n  banger image delete --json box debian",
		Args:              args(1, anyNumber),
		ValidArgsFunction: completeThings(a, service.ListImages),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.runImageDelete(cmd.Context(), names)
		},
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runImageDelete(ctx context.Context, names []string) error {
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	p := a.newProgress(notUndone)
	results := each(ctx, names, func(ctx context.Context, name string) (struct{}, error) {
		return struct{}{}, svc.DeleteImage(ctx, name, p.event)
	})
	p.close()
	return showResults(a, results, a.showDeleted)
}
