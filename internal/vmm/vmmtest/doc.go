// Package vmmtest is the contract of a VMM driver as a test suite, a guest that
// the suite talks to, and a driver without VMs for the tests of everything
// above: its VMM is a child process that holds the VM's lock and speaks as the
// agent does. It knows no real driver.
package vmmtest
