package image

import (
	"slices"

	"banger"
	"banger/internal/rootfs"
)

// roots are the directories of which every root file system has one.
var roots = []string{"bin", "etc", "sbin", "usr"}

const (
	exportInstead = "export a container's files instead: docker export $(docker create IMAGE) >rootfs.tar"
	nothingToRun  = "the image has no init and no shell: its VMs run only programs that are in it"
)

// checkContent refuses an archive that is not a root file system, such as an image
// of docker save. It returns a note if VMs of the image will lack what people expect.
func checkContent(tree rootfs.Tree) (note string, err error) {
	below := func(dir string) func(name string) bool {
		return func(name string) bool { return tree.Has(dir + name) }
	}
	top := tree.Top()
	if slices.ContainsFunc(roots, below("")) {
		if !slices.ContainsFunc([]string{"sbin/init", "bin/sh", "usr/bin/sh"}, tree.Has) {
			note = nothingToRun
		}
		return note, nil
	}
	for _, dir := range append([]string{""}, top...) {
		if dir != "" {
			dir += "/"
		}
		if tree.Has(dir+"manifest.json") || tree.Has(dir+"repositories") {
			return "", banger.Invalidf(exportInstead, "the archive is an image of docker save, not a root file system")
		}
		if tree.Has(dir + "oci-layout") {
			return "", banger.Invalidf(exportInstead, "the archive is an OCI image, not a root file system")
		}
	}
	if len(top) == 1 && slices.ContainsFunc(roots, below(top[0]+"/")) {
		return "", banger.Invalidf("pack what is in the directory: tar -C DIRECTORY -cf rootfs.tar .", "the root file system is in a directory of the archive, %.50q", top[0])
	}
	return "", banger.Invalidf(exportInstead, "the archive is not a root file system: it has none of /bin, /etc, /sbin, /usr")
}
