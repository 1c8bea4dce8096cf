package oci

import (
	"strings"
	"testing"

	"banger"
)

func TestParseRef(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for text, want := range map[string][2]string{
		"debian":                              {"docker.io/library/debian:latest", "debian"},
		"debian:trixie":                       {"docker.io/library/debian:trixie", "debian-trixie"},
		"docker://debian:latest":              {"docker.io/library/debian:latest", "debian"},
		"org/app:1.2":                         {"docker.io/org/app:1.2", "app-1.2"},
		"index.docker.io/org/app":             {"docker.io/org/app:latest", "app"},
		"ghcr.io/a/b/c:V1":                    {"ghcr.io/a/b/c:V1", "c-v1"},
		"localhost/app":                       {"localhost/app:latest", "app"},
		"localhost:5000/app:x":                {"localhost:5000/app:x", "app-x"},
		"[::1]:5000/app":                      {"[::1]:5000/app:latest", "app"},
		"app@" + digest:                       {"docker.io/library/app@" + digest, "app"},
		"ghcr.io/a/app:1@" + digest:           {"ghcr.io/a/app@" + digest, "app"},
		"quay.io/3scale/7z":                   {"quay.io/3scale/7z:latest", "image-7z"},
		"x/" + strings.Repeat("a", 70) + ":1": {"docker.io/x/" + strings.Repeat("a", 70) + ":1", strings.Repeat("a", 63)},
	} {
		r, err := ParseRef(text)
		if err != nil || r.String() != want[0] || r.Name() != want[1] {
			t.Errorf("%s: %s, %s, %v", text, r, r.Name(), err)
		}
		if again, err := ParseRef(r.String()); err != nil || again != r {
			t.Errorf("%s: again %s, %v", text, again, err)
		}
		if banger.CheckImageName(r.Name()) != nil {
			t.Errorf("%s is no name of an image", r.Name())
		}
	}
	for _, text := range []string{"", ":", "@", "Debian", "a:", "a:b:c", "a@sha256:12", "a//b", "/a", "a/", "../a", "ghcr.io/", "http://x/y", "a b", "a:" + strings.Repeat("t", 129), "x_y.z/../a", "host:port/a"} {
		if r, err := ParseRef(text); banger.KindOf(err) != banger.Invalid || banger.FixOf(err) == "" {
			t.Errorf("%q: %s, %v", text, r, err)
		}
	}
}

func TestIsRef(t *testing.T) {
	for text, want := range map[string]bool{"debian": false, "debian-12.8": false, "debian:12": true, "a/b": true, "a@sha256:1": true, "sha256:" + strings.Repeat("a", 64): false} {
		if IsRef(text) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add("localhost:5000/a/b:1@sha256:12")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRef(text)
		if err != nil {
			return
		}
		if again, err := ParseRef(r.String()); err != nil || again != r || banger.CheckImageName(r.Name()) != nil {
			t.Errorf("%q: %s, again %s, %s, %v", text, r, again, r.Name(), err)
		}
	})
}
