package host

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"

	"golang.org/x/crypto/ssh"
)

// keys are the keys of one run of the host: its host key and the user's key.
type keys struct {
	host, user []byte // PEM
	authorized []byte // the user's public key as a line
	known      ssh.PublicKey
	signer     ssh.Signer
}

func newKeys() (keys, error) {
	var k keys
	host, hostSigner, err := newKey()
	if err != nil {
		return k, err
	}
	k.host, k.known = host, hostSigner.PublicKey()
	if k.user, k.signer, err = newKey(); err != nil {
		return k, err
	}
	k.authorized = ssh.MarshalAuthorizedKey(k.signer.PublicKey())
	return k, nil
}

func newKey() ([]byte, ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "banger-lab")
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	return pem.EncodeToMemory(block), signer, err
}
