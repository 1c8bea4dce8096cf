package log

import "testing"

func TestUnescape(t *testing.T) {
	for line, want := range map[string]string{
		`dev-disk-by\x5cx2dlabel-nope.device: timeout\x09\xc3\xa9` + "\n": `dev-disk-by\x2dlabel-nope.device: timeout` + "\té\n",
		`\x5`: `\x5`, `\xzz\`: `\xzz\`, "": "",
	} {
		if got := string(unescape([]byte(line))); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
