package banger_test

import (
	"regexp"
	"strings"
	"testing"

	"banger"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "calm-otter", "x1", "a--b", strings.Repeat("a", banger.MaxName)} {
		if err := banger.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", "-a", "a-", "1a", "A", "Otter", "a_b", "a.b", "a b", "a/b", "..", "../x", "a\n", "a\x00", "ä", "aä", "localhost",
		strings.Repeat("a", banger.MaxName+1),
	} {
		err := banger.CheckName(name)
		if banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "" {
			t.Errorf("%q: %v; want an Invalid error with a fix", name, err)
		}
	}
}

// label is a DNS label that starts with a letter, written another way.
var label = regexp.MustCompile(`\A[a-z]([a-z0-9-]{0,61}[a-z0-9])?\z`)

func FuzzCheckName(f *testing.F) {
	for _, name := range []string{"", "calm-otter", "a-", "-", "1", "localhost", "a\nb", "a\x00", "é", strings.Repeat("b", 64)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := banger.CheckName(name)
		if want := label.MatchString(name) && name != "localhost"; (err == nil) != want {
			t.Errorf("%q: %v, the grammar says %v", name, err, want)
		}
		if err != nil && (banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "") {
			t.Errorf("%q: %v", name, err)
		}
	})
}
