// Package debian describes the Debian release that images and kernels are built from:
// its name, its mirrors and its signing keys. It downloads nothing.
package debian

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The release and its default mirrors. Plain HTTP works with caching proxies, and is
// safe since apt checks everything against the keyring.
const (
	Suite          = "trixie"
	Mirror         = "http://deb.debian.org/debian"
	SecurityMirror = "http://deb.debian.org/debian-security"
	Arch           = "amd64"
)

// The signing keys of Debian 13, from the package debian-archive-keyring
// 2023.3+deb12u2. They are embedded because hosts other than Debian lack them. SHA-256:
//
//	8dbd0029697f8c9b009eeb9a153c6536b62ca031fa0a5b4cec74e8d718fccef6  debian-archive-trixie-automatic.gpg
//	be1a7981908ab9010352131fcbf101a9556f6a61db76a19a1c146d31ef2d72d8  debian-archive-trixie-security-automatic.gpg
//	abced156a22aa8683b228299ac35c1ea51515eef900cec0e562f56716dfe3915  debian-archive-trixie-stable.gpg
//
//go:embed keys/*.gpg
var keys embed.FS

// Keyring returns the release's keys as one binary OpenPGP keyring.
func Keyring() ([]byte, error) {
	names, err := fs.Glob(keys, "keys/*.gpg")
	if err != nil {
		return nil, err
	}
	var ring []byte
	for _, name := range names { // sorted
		key, err := keys.ReadFile(name)
		if err != nil {
			return nil, err
		}
		ring = append(ring, key...)
	}
	return ring, nil
}

// WriteKeyring writes the keyring into dir, readable by everybody, and returns its path.
// apt reads it as its own user or as root of a user namespace, so these must be able to
// enter dir.
func WriteKeyring(dir string) (string, error) {
	path := filepath.Join(dir, "debian-archive-"+Suite+".gpg")
	// A sources line has no way to quote these.
	if strings.ContainsAny(path, " \t\n[]\"") {
		return "", fmt.Errorf("write the archive's keyring: the path %q has a space, a quote or a bracket", path)
	}
	ring, err := Keyring()
	if err != nil {
		return "", fmt.Errorf("read the archive's keyring: %w", err)
	}
	if err := os.WriteFile(path, ring, 0o644); err != nil {
		return "", fmt.Errorf("write the archive's keyring: %w", err)
	}
	if err := os.Chmod(path, 0o644); err != nil { // the umask may have removed bits
		return "", fmt.Errorf("write the archive's keyring: %w", err)
	}
	return path, nil
}

// Sources returns a sources.list for the release, its updates and its security updates.
// An empty mirror means Mirror. Security updates always come from SecurityMirror, since
// few mirrors have them.
func Sources(mirror, keyring string) string {
	if mirror == "" {
		mirror = Mirror
	}
	options := fmt.Sprintf("[arch=%s signed-by=%s]", Arch, keyring)
	return fmt.Sprintf("deb %[1]s %[2]s %[4]s main\ndeb %[1]s %[2]s %[4]s-updates main\ndeb %[1]s %[3]s %[4]s-security main\n",
		options, strings.TrimSuffix(mirror, "/"), SecurityMirror, Suite)
}
