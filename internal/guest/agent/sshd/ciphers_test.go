package sshd

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// algorithms returns what a client and the server have agreed on.
func (g *sshGuest) algorithms(t *testing.T) string {
	t.Helper()
	client, err := g.dial(t, g.key)
	if err != nil {
		t.Fatal(err)
	}
	return client.Conn.(ssh.AlgorithmsConnMetadata).Algorithms().Write.Cipher
}

// Where AES-GCM is slow, clients that prefer it get a faster cipher, and those that know
// only AES can still log in.
func TestCiphersOfASlowCPU(t *testing.T) {
	fast, slow := ciphersFor(time.Microsecond, 2*time.Microsecond), ciphersFor(8*time.Microsecond, time.Microsecond)
	if !slices.Equal(fast, ssh.SupportedAlgorithms().Ciphers) {
		t.Errorf("a fast CPU has %v", fast)
	}
	g := newSSHGuest(t)
	g.server.ciphers = func() []string { return slow }
	for _, c := range []struct {
		knows []string
		want  string
	}{
		{nil, ssh.CipherChaCha20Poly1305},
		{[]string{ssh.CipherAES256GCM, ssh.CipherAES256CTR}, ssh.CipherAES256CTR},
	} {
		g.ciphers = c.knows
		if got := g.algorithms(t); got != c.want {
			t.Errorf("a client that knows %v gets %s", c.knows, got)
		}
	}
	if gcm, chacha := speeds(); gcm <= 0 || chacha <= 0 {
		t.Errorf("they take %v and %v", gcm, chacha)
	}
}
