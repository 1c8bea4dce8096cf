package console

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"banger/internal/guest/wire"
)

// FuzzLastWords plays a guest that writes anything to its console. A bye or a
// failure must count only with the boot's nonce, and no text may control the
// terminal that shows it.
func FuzzLastWords(f *testing.F) {
	const nonce = "0123456789abcdef0123456789abcdef"
	f.Add([]byte("banger-bye " + nonce + " poweroff\r\n"))
	f.Add([]byte("banger-bye " + nonce + " halt the init \x1b[2J has crashed\n[    9.1] reboot: System halted\n"))
	f.Add([]byte("[    0.5] banger-bye " + nonce + " dance\nbanger-bye  halt\n"))
	f.Add([]byte("banger-failed " + nonce + ` {"step":"find disks","why":"no"}` + "\nbanger-failed " + nonce + " {"))
	f.Add([]byte("Kernel panic - not syncing: \x1b[2J\u009b31m\u202eoops\xff\x9b"))
	f.Add(append(bytes.Repeat([]byte("x"), wordsTail), "\nKernel panic - not syncing: late"...))
	f.Add([]byte("Kernel panic - not syncing: " + strings.Repeat("ä", 400)))
	path := filepath.Join(f.TempDir(), "console.log")
	f.Fuzz(func(t *testing.T, console []byte) {
		if err := os.WriteFile(path, console, 0o600); err != nil {
			t.Fatal(err)
		}
		words := Read(path, nonce)
		if !bytes.Contains(console, []byte(nonce)) && (words.Bye != "" || words.Failed != nil) {
			t.Errorf("believed without the nonce: %+v", words)
		}
		if v := words.Bye; v != "" && v != wire.Poweroff && v != wire.Reboot && v != wire.Halt {
			t.Errorf("verb %q", v)
		}
		for _, said := range []string{words.Panic, words.Why} {
			if bad := strings.IndexFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }); bad >= 0 || len(said) > 400 {
				t.Errorf("%d bytes for a person: %q", len(said), said)
			}
		}
		whole, err := Tail(path, wordsTail)
		if err != nil || !bytes.HasSuffix(console, whole) || len(whole) != min(len(console), wordsTail) {
			t.Errorf("the tail has %d bytes of %d: %v", len(whole), len(console), err)
		}
	})
}
