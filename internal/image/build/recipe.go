package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"banger"
)

// recipe is what an image was built from. It is kept beside the image; arguments and the
// script, which may be private, only as a part of the key.
type recipe struct {
	Version  int           `json:"version"`
	Key      string        `json:"key"`
	From     string        `json:"from"`
	FromID   banger.Digest `json:"from_digest"`
	Packages []string      `json:"packages,omitempty"`
	Docker   bool          `json:"docker,omitempty"`
	Script   bool          `json:"script,omitempty"`
}

// recipeVersion changes when the same inputs give another image.
const recipeVersion = 1

// recipeOf returns the recipe of a build that begins with an image. Two builds with the
// same key begin with the same image, packages, script and arguments. Secrets do not count.
func recipeOf(from banger.Image, spec banger.BuildImage) recipe {
	text, _ := json.Marshal(struct {
		Version  int
		From     banger.Digest
		Packages []string
		Docker   bool
		Script   string
		Args     []string
	}{recipeVersion, from.ID, spec.Packages, spec.Docker, spec.Script, spec.Args})
	sum := sha256.Sum256(text)
	return recipe{Version: recipeVersion, Key: hex.EncodeToString(sum[:]), From: from.Name, FromID: from.ID,
		Packages: spec.Packages, Docker: spec.Docker, Script: spec.Script != ""}
}

// readRecipe reads a recipe. It returns an empty one if the text is not a recipe.
func readRecipe(text []byte) recipe {
	var r recipe
	if json.Unmarshal(text, &r) != nil {
		return recipe{}
	}
	return r
}

func (r recipe) text() []byte {
	text, _ := json.MarshalIndent(r, "", "  ")
	return append(text, '\n')
}

// origin says for people what an image was built from.
func (r recipe) origin() string {
	parts := []string{r.From}
	switch n := len(r.Packages); {
	case n == 1:
		parts = append(parts, r.Packages[0])
	case n > 1:
		parts = append(parts, fmt.Sprintf("%d packages", n))
	}
	if r.Docker {
		parts = append(parts, "Docker")
	}
	if r.Script {
		parts = append(parts, "a script")
	}
	return "built from " + strings.Join(parts, " + ")
}

var (
	// packageName matches what package managers take as the name of a package, perhaps with
	// an architecture, a version or a suite. None looks like an option.
	packageName  = regexp.MustCompile(`^[A-Za-z0-9@][A-Za-z0-9@+._~:=<>/-]{0,200}$`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	secretName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}$`)
)

// check returns an error about what cannot be built, whatever the image is.
func check(spec banger.BuildImage) error {
	if len(spec.Packages) == 0 && spec.Script == "" && !spec.Docker {
		return banger.Invalidf("give --packages, --script or --docker", "there is nothing to build")
	}
	for _, name := range spec.Packages {
		if !packageName.MatchString(name) {
			return banger.Invalidf("name packages as the image's package manager does: --packages 'ripgrep jq'", "%.80q is not the name of a package", name)
		}
	}
	for _, arg := range spec.Args {
		name, _, given := strings.Cut(arg, "=")
		if !given || !variableName.MatchString(name) || strings.ContainsRune(arg, 0) {
			return banger.Invalidf("write --build-arg NAME=value", "%.80q is not a variable", arg)
		}
	}
	for name := range spec.Secrets {
		if !secretName.MatchString(name) {
			return banger.Invalidf("use letters, digits, dots, hyphens and underscores", "%.80q cannot name a secret", name)
		}
	}
	return nil
}
