// Package version holds the version that banger's programs print. It does not compare
// versions.
package version

// Version is the version of the programs. make build sets it.
var Version = "0.1.0-dev"
