package oci

import (
	"fmt"
	"regexp"
	"strings"

	"banger"
)

// DockerHub is the registry of names that name none.
const DockerHub = "docker.io"

// Ref is the name of an image in a registry.
type Ref struct {
	Registry   string // its host, perhaps with a port
	Repository string
	Tag        string        // empty if there is a digest
	Digest     banger.Digest // empty if there is a tag
}

var (
	registryForm   = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)
	repositoryForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}$`)
)

const maxRepository = 255

// IsRef reports whether text can only be a name in a registry: no image is named so here.
func IsRef(text string) bool { return !validDigest(text) && strings.ContainsAny(text, "/:@") }

// ParseRef reads a name as Docker does: without a registry it is one of Docker Hub, and
// without a tag it is the newest.
func ParseRef(text string) (Ref, error) {
	const fix = "write it as in docker pull: debian:trixie, ghcr.io/org/app:1.2, localhost:5000/app"
	rest := strings.TrimPrefix(text, "docker://")
	var r Ref
	rest, digest, hasDigest := strings.Cut(rest, "@")
	if hasDigest {
		if r.Digest = banger.Digest(digest); !validDigest(digest) {
			return r, banger.Invalidf(fix, "%.100q does not end in a digest: sha256: and 64 hexadecimal digits", text)
		}
	}
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		rest, r.Tag = rest[:colon], rest[colon+1:]
		if !tagForm.MatchString(r.Tag) {
			return r, banger.Invalidf(fix, "%.100q has no valid tag after its last colon", text)
		}
	}
	r.Registry, r.Repository = DockerHub, rest
	if first, path, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		r.Registry, r.Repository = first, path
	}
	if r.Registry == "index.docker.io" || r.Registry == "registry-1.docker.io" {
		r.Registry = DockerHub
	}
	if r.Registry == DockerHub && !strings.Contains(r.Repository, "/") {
		r.Repository = "library/" + r.Repository
	}
	if !registryForm.MatchString(r.Registry) || !repositoryForm.MatchString(r.Repository) || len(r.Repository) > maxRepository {
		return r, banger.Invalidf(fix, "%.100q is not the name of an image in a registry", text)
	}
	switch {
	case r.Digest != "": // which says more than a tag
		r.Tag = ""
	case r.Tag == "":
		r.Tag = "latest"
	}
	return r, nil
}

// String returns the whole name.
func (r Ref) String() string {
	if r.Digest != "" {
		return fmt.Sprintf("%s/%s@%s", r.Registry, r.Repository, r.Digest)
	}
	return fmt.Sprintf("%s/%s:%s", r.Registry, r.Repository, r.Tag)
}

// Name returns what the image is called here unless a person chooses: debian-trixie.
func (r Ref) Name() string {
	name := r.Repository[strings.LastIndexByte(r.Repository, '/')+1:]
	if r.Tag != "" && r.Tag != "latest" {
		name += "-" + strings.ToLower(r.Tag)
	}
	if name[0] < 'a' {
		name = "image-" + name
	}
	return name[:min(len(name), banger.MaxName)]
}
