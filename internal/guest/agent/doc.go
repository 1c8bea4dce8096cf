// Package agent is banger inside a VM, one program in several roles: the first
// process, which builds the root file system and hands over to the image's
// init; the server, which the host talks to; the last stage, which leaves the
// disks clean; and a modprobe for images that have none. It does not know how
// streams travel to the host, nor what the host makes of what it is told.
package agent
