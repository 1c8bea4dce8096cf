package sshd

import (
	"crypto/aes"
	"crypto/cipher"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/ssh"
)

// usualCiphers returns what the server offers on this CPU.
var usualCiphers = sync.OnceValue(func() []string { return ciphersFor(speeds()) })

// ciphersFor returns the ciphers to offer, given how long AES-GCM and ChaCha20 take. The
// client chooses among them, and many prefer AES-GCM. An emulated CPU multiplies for it bit
// by bit, which takes several times as long as all else of a copy. Then it is not offered;
// AES-CTR is left for clients that may use nothing but AES.
func ciphersFor(gcm, chacha time.Duration) []string {
	offered := ssh.SupportedAlgorithms().Ciphers
	if gcm < 2*chacha {
		return offered
	}
	return slices.DeleteFunc(offered, func(name string) bool { return name == ssh.CipherAES128GCM || name == ssh.CipherAES256GCM })
}

// speeds returns how long AES-GCM and ChaCha20 take for a small packet.
func speeds() (gcm, chacha time.Duration) {
	packet := make([]byte, 4<<10)
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return 0, 0
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return 0, 0
	}
	sealed := make([]byte, 0, len(packet)+aead.Overhead())
	gcm = shortest(func() { aead.Seal(sealed, make([]byte, aead.NonceSize()), packet, nil) })
	stream, err := chacha20.NewUnauthenticatedCipher(make([]byte, chacha20.KeySize), make([]byte, chacha20.NonceSize))
	if err != nil {
		return 0, 0
	}
	return gcm, shortest(func() { stream.XORKeyStream(packet, packet) })
}

// shortest returns the shortest of some times that f takes: others may have the CPU.
func shortest(f func()) (best time.Duration) {
	for try := range 4 {
		began := time.Now()
		f()
		if took := time.Since(began); try == 0 || took < best {
			best = took
		}
	}
	return best
}
