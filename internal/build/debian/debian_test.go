package debian

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
)

func TestKeyringIsTheArchives(t *testing.T) {
	for name, want := range map[string]string{
		"automatic":          "8dbd0029697f8c9b009eeb9a153c6536b62ca031fa0a5b4cec74e8d718fccef6",
		"security-automatic": "be1a7981908ab9010352131fcbf101a9556f6a61db76a19a1c146d31ef2d72d8",
		"stable":             "abced156a22aa8683b228299ac35c1ea51515eef900cec0e562f56716dfe3915",
	} {
		key, err := keys.ReadFile("keys/debian-archive-" + Suite + "-" + name + ".gpg")
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256.Sum256(key); hex.EncodeToString(got[:]) != want {
			t.Errorf("%s: SHA-256 %x, want %s", name, got, want)
		}
	}
}

func TestWriteKeyringIsReadableByAll(t *testing.T) {
	path, err := WriteKeyring(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	want, err := Keyring()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d: %v", len(got), len(want), err)
	}
	spaced := filepath.Join(t.TempDir(), "a b")
	if err := os.Mkdir(spaced, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteKeyring(spaced); err == nil {
		t.Error("a path that a sources line cannot hold was taken")
	}
}

func TestSources(t *testing.T) {
	want := `deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie-updates main
deb [arch=amd64 signed-by=/k.gpg] http://deb.debian.org/debian-security trixie-security main
`
	if got := Sources("http://mirror.example/debian/", "/k.gpg"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
