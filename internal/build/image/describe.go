package image

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"banger/internal/build/debian"
)

// describe returns the release and the number of packages in an installed tree. It
// leaves the tree's position at its start.
func describe(tree io.ReadSeeker) (string, error) {
	if _, err := tree.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	version, packages := "", 0
	for t := tar.NewReader(tree); version == "" || packages == 0; {
		h, err := t.Next()
		if err == io.EOF {
			return "", errors.New("the installed tree has no release or no packages")
		}
		if err != nil {
			return "", fmt.Errorf("read the installed tree: %w", err)
		}
		switch path.Clean(h.Name) {
		case "etc/debian_version":
			text, err := io.ReadAll(io.LimitReader(t, 64))
			if err != nil {
				return "", err
			}
			version = strings.TrimSpace(string(text))
		case "var/lib/dpkg/status":
			if packages, err = countInstalled(t); err != nil {
				return "", err
			}
		}
	}
	_, err := tree.Seek(0, io.SeekStart)
	return fmt.Sprintf("debian %s %s, %d packages", debian.Suite, version, packages), err
}

func countInstalled(status io.Reader) (int, error) {
	n := 0
	lines := bufio.NewScanner(status)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if lines.Text() == "Status: install ok installed" {
			n++
		}
	}
	return n, lines.Err()
}
