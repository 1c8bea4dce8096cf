package image

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"banger"
)

// packageName is what Debian allows, with an architecture or a release after it.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(/[a-z-]+)?$`)

// readPackages reads a list of packages: one a line, # begins a comment.
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
			return nil, banger.Invalidf(fmt.Sprintf("correct line %d of %s", i+1, path), "%q is not the name of a package", name)
		}
		packages = append(packages, name)
	}
	if len(packages) == 0 {
		return nil, banger.Invalidf("name at least systemd-sysv in it", "%s lists no packages", path)
	}
	return packages, nil
}
