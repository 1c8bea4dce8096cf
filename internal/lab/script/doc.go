// Package script is tests only: testdata/*.txtar run the programs banger and
// bangerd as users do, on the driver without VMs. What needs a guest is in lab.
package script
