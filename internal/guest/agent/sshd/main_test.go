package sshd

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"banger/internal/guest/agent/layout"
)

// TestMain lets the test's own program be the servers of files that it starts.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case layout.NameTransfer:
		os.Exit(RunTransfer())
	case layout.NameSFTP:
		os.Exit(RunSFTP())
	}
	os.Exit(m.Run())
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}
