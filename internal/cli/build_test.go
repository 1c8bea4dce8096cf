package cli

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"banger"
)

// fakeBuilds keeps what it is asked for.
type fakeBuilds struct {
	banger.BuildService
	name string
	spec banger.BuildImage
}

func (f *fakeBuilds) BuildImage(_ context.Context, name string, spec banger.BuildImage, p banger.Progress) (banger.BuiltImage, error) {
	f.name, f.spec = name, spec
	p.Send(banger.Step{Step: "run the script", Output: "hello\x1b[2J"})
	return banger.BuiltImage{Image: banger.Image{Name: name, Size: banger.MiB}}, nil
}

// TestBuildReadsItsInputs: what the flags name, files and variables, arrives as it is.
func TestBuildReadsItsInputs(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	packages, script, secret := file("list", "# tools\njq # a comment\n\n ripgrep,fd\n"), file("script", "#!/bin/sh\n"), file("secret", "a\x00b")
	builds := &fakeBuilds{}
	f := newFake()
	f.BuildService = builds
	r := f.run(t, setup{tty: true}, "image", "build", "box", "--from", "base", "--packages", packages, "--script", script, "--docker", "--build-arg", "A=b=c",
		"--build-arg", "EMPTY", "--secret", "id=one,src="+secret, "--secret", "id=EMPTY", "--secret", "env=EMPTY,id=two", "--size", "3", "--memory", "512", "--vcpu", "2", "--rebuild")
	want := banger.BuildImage{From: "base", Packages: []string{"jq", "ripgrep", "fd"}, Docker: true, Script: "#!/bin/sh\n", Args: []string{"A=b=c", "EMPTY="},
		Secrets: map[string]string{"one": "a\x00b", "EMPTY": "", "two": ""}, Size: 3 * banger.GiB, Memory: 512 * banger.MiB, VCPUs: 2, Rebuild: true}
	if r.code != 0 || builds.name != "box" || !reflect.DeepEqual(builds.spec, want) {
		t.Errorf("exit code %d (%s): %+v\nwant %+v", r.code, r.errOut, builds.spec, want)
	}
	if !strings.Contains(r.errOut, "  hello?[2J\n") {
		t.Errorf("the output is shown as %q", r.errOut)
	}
	if r := f.run(t, setup{in: "exit 0\n"}, "image", "build", "box", "--script", "-"); r.code != 0 || builds.spec.Script != "exit 0\n" {
		t.Errorf("exit code %d (%s): %+v", r.code, r.errOut, builds.spec)
	}
	large := file("large", strings.Repeat("x", maxInputs))
	for _, args := range [][]string{{"--script", large, "--secret", "id=x,src=" + secret}, {"--script", "-"}, {"--script", file("empty", "\n")}, {"--secret", "src=" + secret},
		{"--secret", "id=x,mode=1"}, {"--secret", "id=UNSET"}, {"--packages", dir + "/none"}, {"--packages", file("comments", "# x\n")}} {
		if r := f.run(t, setup{tty: true}, append([]string{"image", "build", "box"}, args...)...); r.code != 2 && r.code != 3 || !strings.Contains(r.errOut, "fix: ") {
			t.Errorf("%q: exit code %d: %s", args, r.code, r.errOut)
		}
	}
}
