package banger_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestMutationsApply: each place that scripts/mutations breaks is there once, and so
// are the tests that have to notice.
func TestMutationsApply(t *testing.T) {
	text, err := os.ReadFile("scripts/mutations")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		name := lines[i]
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		if i+4 >= len(lines) {
			t.Fatalf("%s: it has fewer than five lines", name)
		}
		file, old, new := lines[i+1], strings.TrimPrefix(lines[i+2], "- "), strings.TrimPrefix(lines[i+3], "+")
		dir, tests, _ := strings.Cut(lines[i+4], " ")
		i += 4
		if old == lines[i-2] || new == lines[i-1] || tests == "" {
			t.Errorf("%s: its lines are not those that the file's head tells of", name)
			continue
		}
		code, err := os.ReadFile(file)
		found := 0
		for line := range strings.Lines(string(code)) {
			if strings.Contains(line, old) {
				found++
			}
		}
		if err != nil || found != 1 {
			t.Errorf("%s: %s has %q on %d lines: %v", name, file, old, found, err)
		}
		for _, pattern := range strings.Split(tests, "|") {
			if top, _, _ := strings.Cut(pattern, "/"); !hasTest(t, dir, top) {
				t.Errorf("%s: %s has no test that is %s", name, dir, top)
			}
		}
	}
}

// hasTest says whether go test -run would find one in a directory.
func hasTest(t *testing.T, dir, pattern string) bool {
	t.Helper()
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range testFunc.FindAllStringSubmatch(string(text), -1) {
			if wanted.MatchString(found[1]) {
				return true
			}
		}
	}
	return false
}
