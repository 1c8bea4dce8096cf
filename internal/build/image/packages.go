package image

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"banger"
)

// packageName matches a Debian package, with an optional architecture and release.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(/[a-z-]+)?$`)

// readPackages reads a list of packages: one per line, # begins a comment.
func readPackages(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var packages []string
	for i, line := range strings.Split(string(text), "\n") {
		name, _, _ := strings.Cut(line, "#")
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		if !packageName.MatchString(name) {
			return nil, banger.Invalidf(fmt.Sprintf("correct line %d of %s", i+1, path), "%q is not a package name", name)
		}
		packages = append(packages, name)
	}
	if len(packages) == 0 {
		return nil, banger.Invalidf("list at least systemd-sysv in it", "%s lists no packages", path)
	}
	return packages, nil
}
