package image

import (
	"debug/elf"
	"fmt"
	"runtime"
	"slices"

	"banger"
	"banger/internal/rootfs"
)

// roots are the directories of which every root file system has one.
var roots = []string{"bin", "etc", "sbin", "usr"}

const (
	exportInstead = "export a container's files instead: docker export $(docker create IMAGE) >rootfs.tar"
	nothingToRun  = "the image has no init and no shell: its VMs run only programs that are in it"
	noShell       = "the image has no shell at /bin/sh: `banger vm ssh` cannot log in, and `banger vm exec` runs programs without one"
)

// checkContent refuses an archive that is not a root file system. It returns a note if VMs of the image will lack what people expect.
func checkContent(tree rootfs.Tree) (note string, err error) {
	below := func(dir string) func(name string) bool {
		return func(name string) bool { return tree.Has(dir + name) }
	}
	top := tree.Top()
	if slices.ContainsFunc(roots, below("")) {
		return checkPrograms(tree)
	}
	if tree.Has("repositories") { // package oci reads what newer ones save
		return "", banger.Invalidf(exportInstead, "the archive is an image of docker save from before 2016, not a root file system")
	}
	if len(top) == 1 && slices.ContainsFunc(roots, below(top[0]+"/")) {
		return "", banger.Invalidf("pack what is in the directory: tar -C DIRECTORY -cf rootfs.tar .", "the root file system is in a directory of the archive, %.50q", top[0])
	}
	return "", banger.Invalidf(exportInstead, "the archive is not a root file system: it has none of /bin, /etc, /sbin, /usr")
}

// machines are ELF's numbers of the machine of a VM, which is the host's, and of others.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkPrograms refuses an image for another machine. It returns a note if nobody can log
// in to its VMs.
func checkPrograms(tree rootfs.Tree) (note string, err error) {
	for _, name := range []string{"bin/sh", "sbin/init", "bin/busybox", "usr/bin/env"} {
		program, _ := tree.Program(name)
		if m := elf.Machine(program.Machine); m != elf.EM_NONE && m != machines[runtime.GOARCH] {
			return "", banger.Invalidf("get it for this machine, as with docker create --platform linux/"+runtime.GOARCH,
				"its programs are for another machine: /%s has %v, and VMs have %v", name, m, machines[runtime.GOARCH])
		}
	}
	shell, found := tree.Program("bin/sh")
	_, init := tree.Program("sbin/init")
	if !found && !init {
		return nothingToRun, nil
	}
	if !found {
		return noShell, nil
	}
	if _, there := tree.Program(shell.Interpreter); shell.Interpreter != "" && !there {
		return fmt.Sprintf("the image's shell, /bin/sh, needs %s, which the image does not have: `banger vm ssh` cannot log in", shell.Interpreter), nil
	}
	return "", nil
}
