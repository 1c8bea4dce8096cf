// Package agent is banger inside a VM, one program in several roles. It only chooses
// the role; each role is a package below it:
//
//   - boot is the first process. It builds the root file system and hands over to the
//     image's init.
//   - server is what the host talks to. It uses control for requests and events, and
//     sshd for programs, forwards and files.
//   - shutdown ends the machine, with the last stage, which leaves the disks clean.
//   - modprobe loads modules in images that cannot.
//
// They share identity (host name, keys, clock), network (the network card), ports (what
// listens), imageinit (the image's init and its state), disk and mount (the VM's disks),
// and below these process, socket, inroot, layout and log.
package agent
