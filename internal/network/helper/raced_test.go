//go:build race

package helper

// The race detector multiplies what a process takes.
func init() { raced = true }
