package config

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the generated part of docs/config.md")

// TestDocs compares the tables in docs/config.md with the keys.
func TestDocs(t *testing.T) {
	const path = "../../docs/config.md"
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	part := regexp.MustCompile(`(?s)(<!-- generated: keys -->\n).*?(<!-- end -->)`)
	if !part.Match(old) {
		t.Fatalf("%s has no generated part", path)
	}
	text := part.ReplaceAllLiteralString(string(old), "<!-- generated: keys -->\n\n"+tables()+"\n<!-- end -->")
	if text == string(old) {
		return
	}
	if !*update {
		t.Fatalf("%s differs from the code; fix: go test -run TestDocs ./internal/config -update", path)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tables() string {
	var out strings.Builder
	fmt.Fprint(&out, "| key | value | default | environment | meaning |\n|---|---|---|---|---|\n")
	for _, key := range keys {
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", key.name, key.value, code(key.fallback), code(key.env), key.meaning)
	}
	fmt.Fprint(&out, "\nAccepted from the first banger's configuration, and without effect:\n\n| key | |\n|---|---|\n")
	for _, key := range legacy {
		fmt.Fprintf(&out, "| `%s` | %s |\n", key.name, key.why)
	}
	return out.String()
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
