package guest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger"
	"banger/internal/durable"
)

// NewKey makes an ed25519 key pair: the private half as OpenSSH PEM, the
// public one as a line for authorized_keys, without its end of line.
func NewKey(comment string) (private []byte, public string, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return nil, "", err
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, "", err
	}
	return pem.EncodeToMemory(block), authorized(key) + " " + comment, nil
}

// PublicKey returns the public half of a private key in PEM, as NewKey does.
func PublicKey(private []byte) (string, error) {
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return "", err
	}
	return authorized(signer.PublicKey()), nil
}

func authorized(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

// UserKey returns the public half of the key pair at path, and makes the pair if
// neither half exists. It never changes what exists. If the private half has a
// passphrase or is in an SSH agent, the public half is read from path.pub.
func UserKey(path string) (string, error) {
	private, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	var public string
	if err == nil {
		if public, err = PublicKey(private); err == nil {
			return public, nil
		}
	}
	line, pubErr := os.ReadFile(path + ".pub")
	switch {
	case pubErr == nil:
		return strings.TrimSpace(string(line)), nil
	case errors.Is(err, os.ErrNotExist) && errors.Is(pubErr, os.ErrNotExist):
		return makeUserKey(path)
	}
	return "", &banger.Error{Kind: banger.Invalid, What: "read SSH key " + path, Why: err,
		Fix: "put its public half at " + path + ".pub"}
}

// makeUserKey writes the private half first. A public half alone would look like a
// key whose private half is somewhere else.
func makeUserKey(path string) (string, error) {
	for _, half := range []string{path, path + ".pub"} {
		if _, err := os.Lstat(half); err == nil {
			return "", &banger.Error{Kind: banger.Invalid, What: "make SSH key " + path,
				Why: fmt.Errorf("%s is a broken link", half), Fix: "mount what it leads to, or rm " + half}
		}
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	private, public, err := NewKey("banger")
	if err != nil {
		return "", err
	}
	if err := durable.WriteFile(path, private, 0o600); err != nil {
		return "", err
	}
	if err := durable.WriteFile(path+".pub", []byte(public+"\n"), 0o644); err != nil {
		return "", err
	}
	return public, nil
}

// HostAlias returns the name under which a VM's host key is known. It is made from
// the ID: a VM that is renamed, or gets an old name, must not meet another key.
func HostAlias(id banger.VMID) string { return "banger-" + string(id) }

// AddKnownHost records a VM's host key, in place of an earlier one of the same ID. It
// writes nothing if the key is already recorded.
func AddKnownHost(path string, id banger.VMID, name, public string) error {
	line := fmt.Sprintf("%s,%s.vm %s", HostAlias(id), name, public)
	if text, err := os.ReadFile(path); err == nil && strings.Contains("\n"+string(text), "\n"+line+"\n") {
		return nil
	}
	lines, err := otherHosts(path, id)
	if err != nil {
		return err
	}
	return writeHosts(path, append(lines, line))
}

// RemoveKnownHost forgets a VM's host key. It may be called twice.
func RemoveKnownHost(path string, id banger.VMID) error {
	lines, err := otherHosts(path, id)
	if err != nil {
		return err
	}
	return writeHosts(path, lines)
}

func otherHosts(path string, id banger.VMID) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, HostAlias(id)+",") {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

func writeHosts(path string, lines []string) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	text := strings.Join(lines, "\n")
	if text != "" {
		text += "\n"
	}
	if err := durable.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return WriteHostNames(path)
}

// hostNames returns the file beside known hosts that tells ssh the IDs of the VMs.
func hostNames(knownHosts string) string { return filepath.Join(filepath.Dir(knownHosts), "names") }

// WriteHostNames writes what the entry for all VMs includes: each NAME.vm has the host
// name and the alias of its VM's ID. A connection that ssh shares is found by the host name, and would
// lead to the VM that had the name before.
func WriteHostNames(knownHosts string) error {
	known, err := os.ReadFile(knownHosts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var text strings.Builder
	for line := range strings.Lines(string(known)) {
		hosts, _, _ := strings.Cut(line, " ")
		if alias, name, ok := strings.Cut(hosts, ","); ok {
			// Other than Host, this takes the name in capitals, too.
			fmt.Fprintf(&text, "Match originalhost %s\n  HostName %s\n  HostKeyAlias %s\n", name, alias, alias)
		}
	}
	return durable.WriteFile(hostNames(knownHosts), []byte(text.String()), 0o600)
}
