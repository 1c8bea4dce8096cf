// Package lab proves banger's promises on real VMs, through the programs that
// a user types. Its tests need the tag vm, the built programs and a runtime
// bundle: `make vmtest` prepares both. It holds nothing that a program uses.
package lab
