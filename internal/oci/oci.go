// Package oci reads images of containers: OCI layouts and what docker save writes, in
// directories and archives. It chooses the image for this machine, verifies every part
// by its digest, and does not trust any. It owns the names of images in registries, too.
// How layers become a file system is package rootfs's.
package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"banger"
)

// Limits of what an image may consist of, far above what there is.
const (
	MaxDocument = 4 * banger.MiB  // bytes in a manifest, an index or a configuration
	MaxLayer    = 48 * banger.GiB // bytes in a layer as it is stored
	maxLayers   = 500
	maxIndex    = 4 // indexes in indexes
)

// again is the fix for parts that are damaged or missing.
const again = "download or create the image again"

// Descriptor names a part of an image.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      banger.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *Platform         `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

// Platform is what an image's programs run on.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p Platform) String() string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}

// Image is an image for this machine.
type Image struct {
	Digest banger.Digest // of its manifest, or of its configuration if it has none
	Config banger.ImageConfig
	Layers []Layer // lowest first
}

// Layer is one layer, as it is stored.
type Layer struct {
	Descriptor
	DiffID banger.Digest // of what it is unpacked
}

// Get returns a small part of an image. Find verifies it.
type Get func(ctx context.Context, d Descriptor) ([]byte, error)

// document is a manifest or an index.
type document struct {
	SchemaVersion int          `json:"schemaVersion"`
	Config        *Descriptor  `json:"config"`
	Layers        []Descriptor `json:"layers"`
	Manifests     []Descriptor `json:"manifests"`
}

func parse(data []byte, what string, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return banger.Invalidf(again, "%s is damaged: it is not the JSON that it should be", what)
	}
	return nil
}

// Find returns the image for this machine that a manifest or an index describes.
func Find(ctx context.Context, get Get, top Descriptor) (Image, error) {
	for range maxIndex {
		data, err := Verified(ctx, get, top)
		if err != nil {
			return Image{}, err
		}
		var d document
		if err := parse(data, "the manifest", &d); err != nil {
			return Image{}, err
		}
		switch {
		case d.Manifests != nil:
			if top, err = choose(d.Manifests); err != nil {
				return Image{}, err
			}
		case d.Config != nil:
			return fromManifest(ctx, get, top.Digest, d)
		case d.SchemaVersion == 1:
			return Image{}, banger.Invalidf("push it again with a Docker that is not older than 2016", "its manifest has the format of 2014, which is not supported")
		default:
			return Image{}, banger.Invalidf(again, "the manifest %s describes no image", short(top.Digest))
		}
	}
	return Image{}, banger.Invalidf(again, "its indexes lead to other indexes")
}

// Verified returns a part and checks its size and digest.
func Verified(ctx context.Context, get Get, d Descriptor) ([]byte, error) {
	if err := d.check(MaxDocument); err != nil {
		return nil, err
	}
	data, err := get(ctx, d)
	if err != nil {
		return nil, err
	}
	if d.Size > 0 && int64(len(data)) != d.Size || DigestOf(data) != d.Digest {
		return nil, banger.Invalidf(again, "%s is damaged: its content is not what its digest says", short(d.Digest))
	}
	return data, nil
}

// DigestOf returns the digest of data.
func DigestOf(data []byte) banger.Digest {
	sum := sha256.Sum256(data)
	return banger.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// check checks what makes file names and sizes.
func (d Descriptor) check(most banger.Size) error {
	if !validDigest(string(d.Digest)) {
		return banger.Invalidf("use an image whose digests are SHA-256", "%.80q is not a digest", d.Digest)
	}
	if d.Size < 0 || d.Size > int64(most) {
		return banger.Invalidf("use a smaller image", "%s has %d bytes, which is more than %v", short(d.Digest), d.Size, most)
	}
	return nil
}

func validDigest(text string) bool {
	digits, ok := strings.CutPrefix(text, "sha256:")
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}

// short is a digest as people read it.
func short(d banger.Digest) string { return fmt.Sprintf("%.19s", string(d)) }

// host is what VMs run.
var host = Platform{OS: "linux", Architecture: runtime.GOARCH}

// variants are the variants of each architecture that run everywhere, the best first.
var variants = map[string][]string{"amd64": {"", "v1"}, "arm64": {"v8", ""}}

// choose returns the image for this machine out of an index. An image that names no
// platform may be for any: its configuration says it.
func choose(all []Descriptor) (Descriptor, error) {
	var unnamed []Descriptor
	for _, variant := range variants[host.Architecture] {
		for _, d := range all {
			if p := d.Platform; p != nil && p.OS == host.OS && p.Architecture == host.Architecture && p.Variant == variant {
				return d, nil
			}
		}
	}
	var others []string
	for _, d := range all {
		switch {
		case d.Platform == nil:
			unnamed = append(unnamed, d)
		case d.Platform.OS != "unknown": // attestations
			others = append(others, d.Platform.String())
		}
	}
	if len(unnamed) > 0 {
		return unnamed[0], nil
	}
	if len(others) == 0 {
		return Descriptor{}, banger.Invalidf(again, "it has no images")
	}
	slices.Sort(others)
	return Descriptor{}, wrongPlatform("it is for %.200s", strings.Join(slices.Compact(others), ", "))
}

func wrongPlatform(format string, args ...any) error {
	return banger.Invalidf("use an image for "+host.String(), format+", and VMs are "+host.String(), args...)
}

// configuration is what the configuration of an image says.
type configuration struct {
	Platform
	RootFS struct {
		DiffIDs []banger.Digest `json:"diff_ids"`
	} `json:"rootfs"`
	Config struct {
		Env        []string
		Entrypoint []string
		Cmd        []string
		WorkingDir string
		User       string
	} `json:"config"`
}

func fromManifest(ctx context.Context, get Get, id banger.Digest, d document) (Image, error) {
	if t := d.Config.MediaType; t != "" && !strings.Contains(t, "container.image") && !strings.Contains(t, "oci.image.config") {
		return Image{}, banger.Invalidf("use an image of a container", "it is not an image of a container: its configuration is of the type %.100q", t)
	}
	data, err := Verified(ctx, get, *d.Config)
	if err != nil {
		return Image{}, err
	}
	return fromConfig(data, id, d.Layers)
}

// fromConfig returns an image with the layers, whose order the configuration repeats.
func fromConfig(data []byte, id banger.Digest, layers []Descriptor) (Image, error) {
	var c configuration
	if err := parse(data, "the configuration", &c); err != nil {
		return Image{}, err
	}
	if c.Architecture != "" && (c.OS != host.OS || c.Architecture != host.Architecture) {
		return Image{}, wrongPlatform("it is for %.50s", c.Platform)
	}
	if len(layers) != len(c.RootFS.DiffIDs) || len(layers) > maxLayers {
		return Image{}, banger.Invalidf(again, "its manifest has %d layers, and its configuration %d; at most %d are allowed", len(layers), len(c.RootFS.DiffIDs), maxLayers)
	}
	i := Image{Digest: id, Config: banger.ImageConfig{Env: c.Config.Env, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, WorkingDir: c.Config.WorkingDir, User: c.Config.User}}
	for n, layer := range layers {
		if strings.Contains(layer.MediaType, "nondistributable") || strings.Contains(layer.MediaType, "foreign") {
			return Image{}, banger.Invalidf("use another image", "its layer %s may not be distributed, and so is not part of it", short(layer.Digest))
		}
		l := Layer{layer, c.RootFS.DiffIDs[n]}
		if err := errors.Join(l.check(MaxLayer), Descriptor{Digest: l.DiffID}.check(MaxLayer)); err != nil {
			return Image{}, err
		}
		i.Layers = append(i.Layers, l)
	}
	return i, nil
}
