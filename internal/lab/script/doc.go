// Package script has only tests: testdata/*.txtar run the programs banger and bangerd
// as users do, on the driver without VMs. Tests that need a real guest are in lab.
package script
