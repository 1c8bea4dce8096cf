package cli

import (
	"context"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func newPull(a *app) *cobra.Command {
	var spec banger.PullImage
	cmd := &cobra.Command{
		Use:   "pull REF [NAME]",
		Short: "Create an image from one in a registry",
		Long: "Create an image from an image of a container in a registry. REF is written as for docker\npull. The image is the one for this machine, and needs no init, kernel or SSH server. Without\n" +
			"NAME it is called after REF: debian-trixie.\n\nPulled again, the name moves to the newest image; VMs keep theirs. Credentials are those of\n" +
			"Docker or Podman, and their helpers. An interrupted download continues with the next pull.",
		Example:           "  banger image pull debian:trixie\n  banger image pull --json ghcr.io/org/app:1.2 app",
		Args:              args(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Ref = args[0]
			if len(args) == 2 {
				spec.Name = args[1]
			}
			return a.runPull(cmd.Context(), spec)
		},
	}
	a.addJSON(cmd)
	return cmd
}

func (a *app) runPull(ctx context.Context, spec banger.PullImage) (err error) {
	if spec.Name != "" {
		if err := banger.CheckImageName(spec.Name); err != nil {
			return err
		}
	}
	// The daemon's environment may be another shell's.
	if dir := a.std.Getenv("DOCKER_CONFIG"); dir != "" {
		spec.AuthFile, err = filepath.Abs(filepath.Join(dir, "config.json"))
	} else if file := a.std.Getenv("REGISTRY_AUTH_FILE"); file != "" {
		spec.AuthFile, err = filepath.Abs(file)
	}
	if err != nil {
		return err
	}
	svc, err := a.connect(ctx, autoStart)
	if err != nil {
		return err
	}
	began := time.Now()
	p := a.newProgress("Interrupted. What was downloaded stays for the next pull.")
	image, err := svc.PullImage(ctx, spec, p.event)
	p.close()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(image)
	}
	text := "pulled " + image.Size.String() + a.took(" in ", time.Since(began))
	if image.CreatedAt.Before(began) {
		text = "is up to date"
	}
	if err := a.say(image.Name, text); err != nil {
		return err
	}
	a.hint("banger vm create --image %s", image.Name)
	return nil
}
