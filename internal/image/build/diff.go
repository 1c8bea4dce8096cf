package build

import (
	"bytes"
	"cmp"
	"context"
	"path"
	"slices"
	"strings"

	"banger"
	"banger/internal/guest"
	"banger/internal/guest/wire"
	"banger/internal/rootfs"
	"banger/internal/vm"
)

// DiffVM implements banger.BuildService. The VM stays as it is.
func (b *Builder) DiffVM(ctx context.Context, ref string, _ banger.DiffVM, progress banger.Progress) (_ banger.VMDiff, err error) {
	source, err := b.VMs.ShowVM(ctx, ref)
	if err != nil {
		return banger.VMDiff{}, err
	}
	op := b.Operations.Begin("vm", banger.Diff, source.Name, source.ID, progress)
	defer op.End(ctx, &err)
	from, err := b.readable(ctx, op, source, vm.Helper{})
	if err != nil {
		return banger.VMDiff{}, err
	}
	diff := banger.VMDiff{ID: source.ID, Name: source.Name, Image: source.Image, ImageID: source.ImageID}
	err = op.Step(ctx, "compare", func(ctx context.Context) error {
		files, err := from.export(ctx, wire.Export{Changes: true, Skip: rootfs.Volatile()})
		if err != nil {
			return err
		}
		defer files.Close()
		changes, err := files.Changes()
		diff.Packages, diff.Files = differences(changes)
		return err
	})
	if err == nil {
		err = b.release(ctx, op, from)
	}
	return diff, err
}

// own are the directories in which package managers keep their records. What has changed
// there follows from the packages.
var own = []string{"var/lib/dpkg", "var/lib/apt", "lib/apk", "usr/lib/apk", "var/cache"}

// differences returns what a guest's changes mean, in a form for people.
func differences(changes []wire.Change) ([]banger.PackageChange, []banger.FileChange) {
	packages := []banger.PackageChange{}
	owned := map[string]bool{}
	for _, c := range changes {
		switch c.Kind {
		case wire.Database:
			packages = append(packages, comparePackages(c.Base, c.Text)...)
		case wire.List:
			for line := range strings.Lines(string(c.Text)) {
				name := strings.Trim(line, "/\n")
				owned[name], owned["usr/"+name] = true, true // of old packages it is a link from /lib and the like
			}
		}
	}
	slices.SortFunc(packages, func(a, b banger.PackageChange) int { return cmp.Compare(a.Name, b.Name) })
	var files []wire.Change
	for _, c := range changes {
		if name := string(c.Path); (c.Kind == wire.Added || c.Kind == wire.Changed || c.Kind == wire.Deleted) && !owned[name] && !ofBanger(c) && !ofPackages(name) {
			files = append(files, c)
		}
	}
	return packages, fold(files)
}

// ofBanger reports whether a change is the agent's, and no image has it.
func ofBanger(c wire.Change) bool {
	name := string(c.Path)
	return rootfs.IsReset(name) || name == "etc/hosts" || strings.HasPrefix(name+"/", "var/lib/banger/") ||
		c.Dir && (slices.Contains(mountPoints, name) || slices.Contains(mountPoints, path.Dir(name)))
}

// mountPoints are the directories that the agent creates for what it mounts.
var mountPoints = []string{"lib/modules", "usr/lib/modules", "var/lib/docker", "var/lib/containerd", "var/lib/containers"}

func ofPackages(name string) bool {
	return slices.ContainsFunc(own, func(dir string) bool { return strings.HasPrefix(name+"/", dir+"/") })
}

// comparePackages compares the texts of a database of packages.
func comparePackages(base, text []byte) []banger.PackageChange {
	was, now := installed(base), installed(text)
	var changes []banger.PackageChange
	for name, version := range now {
		if was[name] != version {
			changes = append(changes, banger.PackageChange{Name: name, Was: was[name], Now: version})
		}
	}
	for name, version := range was {
		if now[name] == "" {
			changes = append(changes, banger.PackageChange{Name: name, Was: version})
		}
	}
	return changes
}

// installed returns the versions of the installed packages in the text of a database, which
// is dpkg's or apk's: paragraphs of lines that begin with the name of a field.
func installed(text []byte) map[string]string {
	all := map[string]string{}
	var name, version string
	there := true
	add := func() {
		if name != "" && there {
			all[guest.Printable(name)] = guest.Printable(cmp.Or(version, "?"))
		}
		name, version, there = "", "", true
	}
	for line := range bytes.Lines(text) {
		field, value, _ := strings.Cut(strings.TrimRight(string(line), "\n"), ":")
		switch value = strings.TrimSpace(value); {
		case field == "" && value == "":
			add()
		case field == "Package" || field == "P":
			name = value
		case field == "Version" || field == "V":
			version = value
		case field == "Status":
			there = strings.HasSuffix(value, " installed")
		}
	}
	add()
	return all
}

// fold returns changes by their paths. A directory that was added is one change, whatever is
// in it.
func fold(changes []wire.Change) []banger.FileChange {
	slices.SortFunc(changes, func(a, b wire.Change) int { return compareParts(string(a.Path), string(b.Path)) })
	files := []banger.FileChange{}
	inside := ""
	for _, c := range changes {
		name := string(c.Path)
		if c.Kind == wire.Added && inside != "" && strings.HasPrefix(name, inside+"/") {
			if top := &files[len(files)-1]; !c.Dir {
				top.Files, top.Size = top.Files+1, top.Size+banger.Size(max(c.Size, 0))
			}
			continue
		}
		inside = ""
		if c.Kind == wire.Added && c.Dir {
			inside = name
		}
		files = append(files, banger.FileChange{Path: "/" + guest.Printable(name), Change: string(c.Kind), Dir: c.Dir, Size: banger.Size(max(c.Size, 0))})
	}
	return files
}

// compareParts orders paths so that what is in a directory follows it.
func compareParts(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}
