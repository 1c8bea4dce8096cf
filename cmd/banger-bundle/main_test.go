package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExitCodesAndFixes(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	empty := t.TempDir()
	packages := filepath.Join(t.TempDir(), "packages.apt")
	if err := os.WriteFile(packages, []byte("curl\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "usage:"},
		{[]string{"fetch"}, 2, "usage:"},
		{[]string{"build", "-h"}, 0, "usage:"},
		{[]string{"build", "--no-such-flag"}, 2, "no-such-flag"},
		{[]string{"build", "now"}, 2, "unexpected arguments: now"},
		{[]string{"build", "--only", "roof"}, 2, "fix: use --only kernel, --only image or --only firecracker"},
		{[]string{"build", "--dir", empty, "--packages", packages + ".missing"}, 130, "canceled"},
		{[]string{"package", "--dir", empty}, 5, "fix: make runtime"},
	} {
		var stderr bytes.Buffer
		code := run(canceled, test.args, os.Stdout, &stderr)
		if code != test.code || !strings.Contains(stderr.String(), test.says) {
			t.Errorf("%q: exit %d, want %d: %s", test.args, code, test.code, stderr.String())
		}
	}
}
