package banger

import "strings"

// MaxName is the longest VM name: one DNS label.
const MaxName = 63

// CheckName returns an error unless name may name a VM. Names become host names, DNS
// labels and file names' parts, so the grammar is a DNS label that starts with
// a letter: lower-case letters, digits and inner hyphens, at most 63.
func CheckName(name string) error {
	const fix = "use lower-case letters, digits and hyphens, starting with a letter: calm-otter"
	switch {
	case name == "":
		return Invalidf(fix, "a VM needs a name")
	case len(name) > MaxName:
		return Invalidf(fix, "name %q has %d characters, at most %d are allowed", name, len(name), MaxName)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		return Invalidf(fix, "name %q has characters that a host name cannot have", name)
	case name[0] < 'a' || name[0] > 'z':
		return Invalidf(fix, "name %q does not start with a letter", name)
	case strings.HasSuffix(name, "-"):
		return Invalidf(fix, "name %q ends with a hyphen", name)
	case name == "localhost":
		return Invalidf(fix, "name %q is reserved", name)
	}
	return nil
}

// CheckImageName returns an error unless name may name an imported image. It is
// the grammar of VMs with dots and underscores, as in debian-12.8.
func CheckImageName(name string) error {
	const fix = "use lower-case letters, digits, hyphens, dots and underscores, starting with a letter: debian-12.8"
	switch {
	case name == "":
		return Invalidf(fix, "an image needs a name")
	case len(name) > MaxName:
		return Invalidf(fix, "name %q has %d characters, at most %d are allowed", name, len(name), MaxName)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "":
		return Invalidf(fix, "name %q has characters that the name of an image cannot have", name)
	case name[0] < 'a' || name[0] > 'z':
		return Invalidf(fix, "name %q does not start with a letter", name)
	}
	return nil
}
