package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger"
)

func newImage(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Short:   "Build, pull, import, list, show, delete and prune images",
		Example: "  banger image list\n  banger image pull debian:trixie\n  banger image import box rootfs.tar",
		RunE:    group,
	}
	cmd.AddCommand(newBuild(a), newCommit(a), newDiff(a), newImport(a), newPull(a), newImageDelete(a), newPrune(a),
		newThingList(a, "image", "List the images that VMs can be created from", service.ListImages),
		newThingShow(a, "image", "docker", service.ListImages))
	return cmd
}

func newKernel(a *app) *cobra.Command {
	const release = "6.12.117+deb13-cloud-amd64"
	cmd := &cobra.Command{
		Use:     "kernel",
		Short:   "List and show kernels",
		Example: "  banger kernel list\n  banger kernel show --json " + release,
		RunE:    group,
	}
	cmd.AddCommand(
		newThingList(a, "kernel", "List the kernels that VMs can boot", service.ListKernels),
		newThingShow(a, "kernel", release, service.ListKernels))
	return cmd
}

// thing is an image or a kernel: a kernel has no fields that an image lacks.
type thing interface{ banger.Image | banger.Kernel }

// asImage returns a thing as an image.
func asImage[T thing](t T) banger.Image {
	if k, ok := any(t).(banger.Kernel); ok {
		return banger.Image{Name: k.Name, ID: k.ID, Size: k.Size, Origin: k.Origin, CreatedAt: k.CreatedAt, Use: k.Use}
	}
	return any(t).(banger.Image)
}

// lister is the method of the service that lists things.
type lister[T thing] func(service, context.Context) ([]T, error)

func newThingList[T thing](a *app, noun, short string, list lister[T]) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   short,
		Example: fmt.Sprintf("  banger %s list\n  banger %[1]s list --json", noun),
		Args:    args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			svc, err := a.connect(cmd.Context(), autoStart)
			if err != nil {
				return err
			}
			things, err := list(svc, cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(some(things))
			}
			rows := [][]string{{"NAME", "DIGEST", "SIZE", "AGE", "USED BY", "ORIGIN"}}
			for _, t := range things {
				i := asImage(t)
				rows = append(rows, []string{i.Name, short12(i.ID), i.Size.String(), age(i.CreatedAt), users(i.Use), clean(i.Origin)})
			}
			return table(a.std.Out, rows)
		},
	}
	a.addJSON(cmd)
	return cmd
}

func newThingShow[T thing](a *app, noun, example string, list lister[T]) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show NAME...",
		Short:             fmt.Sprintf("Show everything about %ss", noun),
		Example:           fmt.Sprintf("  banger %s show %s\n  banger %[1]s show --json %[2]s", noun, example),
		Args:              args(1, anyNumber),
		ValidArgsFunction: completeThings(a, list),
		RunE: func(cmd *cobra.Command, names []string) error {
			svc, err := a.connect(cmd.Context(), autoStart)
			if err != nil {
				return err
			}
			things, err := list(svc, cmd.Context())
			if err != nil {
				return err
			}
			return showAll(a, each(cmd.Context(), names, func(_ context.Context, ref string) (T, error) {
				return findThing(things, noun, ref)
			}), func(t T) [][]string { return thingDetails(asImage(t)) })
		},
	}
	a.addJSON(cmd)
	return cmd
}

// findThing finds a thing by its name, or by its digest as it is listed or in full.
func findThing[T thing](things []T, noun, ref string) (T, error) {
	i := slices.IndexFunc(things, func(t T) bool {
		i := asImage(t)
		return ref == i.Name || ref == string(i.ID) || ref == short12(i.ID)
	})
	if i < 0 {
		var none T
		return none, &banger.Error{Kind: banger.NotFound, Why: fmt.Errorf("there is no %s named %s", noun, ref), Fix: "banger " + noun + " list"}
	}
	return things[i], nil
}

// users returns the number of VMs that use a thing; older daemons do not know it.
func users(use *banger.Use) string {
	if use == nil {
		return "-"
	}
	return fmt.Sprint(len(use.VMs))
}

func thingDetails(i banger.Image) [][]string {
	rows := [][]string{{"name", i.Name}, {"digest", string(i.ID)}, {"origin", clean(i.Origin)}, {"size", i.Size.String()}, {"created", when(i.CreatedAt)}}
	if i.Use == nil {
		return rows
	}
	if c := i.Config; c != nil {
		for _, row := range [][]string{{"environment", strings.Join(c.Env, " ")}, {"entrypoint", strings.Join(c.Entrypoint, " ")}, {"command", strings.Join(c.Cmd, " ")}, {"directory", c.WorkingDir}, {"user", c.User}} {
			if row[1] != "" {
				rows = append(rows, []string{row[0], clean(row[1])})
			}
		}
	}
	names := "no VMs"
	if len(i.Use.VMs) > 0 {
		names = strings.Join(i.Use.VMs, ", ")
	}
	return append(rows, []string{"on this host", i.Use.OnHost.String()}, []string{"used by", names})
}

// completeThings completes the names of things without those that are given already.
// It does not start a daemon for that.
func completeThings[T thing](a *app, list lister[T]) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		svc, err := a.connect(ctx, noStart)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		things, _ := list(svc, ctx)
		var names []string
		for _, t := range things {
			if name := asImage(t).Name; !slices.Contains(args, name) {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
