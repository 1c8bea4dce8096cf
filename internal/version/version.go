// Package version holds the version that every program of banger prints. It
// does not compare versions.
package version

// Version is set when the programs are built from a tag.
var Version = "0.1.0-dev"
