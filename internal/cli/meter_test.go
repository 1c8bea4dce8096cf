package cli

import (
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	m := newMeter()
	m.add(5 << 20)
	if got := m.line(); got != "" {
		t.Errorf("at once: %q", got)
	}
	m.begun = time.Now().Add(-10 * time.Second)
	if got := m.line(); got != "copied 5.0M, 0.5M/s" {
		t.Error(got)
	}
	m.expect(300 << 20)
	if got := m.line(); got != "copied 5.0M of 300.0M, 0.5M/s" {
		t.Error(got)
	}
	m.add(296 << 20) // it grew meanwhile
	if got := m.line(); got != "copied 301.0M, 30.1M/s" {
		t.Error(got)
	}
	if got := m.summary(); got != "copied 301.0M in 10.0s, 30.1M/s" {
		t.Error(got)
	}
}

func TestQuote(t *testing.T) {
	for arg, want := range map[string]string{"/srv/a-b.txt": "/srv/a-b.txt", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$x": "'$x'", "~": "'~'"} {
		if got := quote(arg); got != want {
			t.Errorf("%q: %s", arg, got)
		}
	}
}

func TestEndOf(t *testing.T) {
	for arg, want := range map[string]copyEnd{
		"otter:":       {ref: "otter"},
		"otter:/a:b":   {ref: "otter", path: "/a:b"},
		"otter:-":      {ref: "otter", path: "-"},
		"-":            {path: "-", stream: true},
		"./a:b":        {path: "./a:b"},
		"/a/b:c":       {path: "/a/b:c"},
		":a":           {path: ":a"},
		"plain":        {path: "plain"},
		"otter:a\nb c": {ref: "otter", path: "a\nb c"},
	} {
		if got := endOf(arg); got.ref != want.ref || got.path != want.path || got.stream != want.stream {
			t.Errorf("%q: %+v", arg, got)
		}
	}
}
