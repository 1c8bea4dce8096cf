package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"banger"
)

func TestImageShow(t *testing.T) {
	f := newFake()
	for _, ref := range []string{"docker", "sha256:0123456789abcdef", "0123456789ab"} {
		r := f.run(t, setup{}, "image", "show", ref)
		for _, want := range []string{"docker\n", "sha256:0123456789abcdef\n", "debian trixie\n", "429M\n", "400M\n", "otter, wombat\n"} {
			if r.code != 0 || !strings.Contains(r.out, want) {
				t.Errorf("%s: %q is missing in %+v", ref, want, r)
			}
		}
	}
	var image banger.Image
	if r := f.run(t, setup{}, "image", "show", "--json", "docker"); json.Unmarshal([]byte(r.out), &image) != nil || image.Use == nil || len(image.Use.VMs) != 2 {
		t.Errorf("%+v", r)
	}
	f.run(t, setup{}, "kernel", "show", "7.0").want(t, 3, "", "banger: there is no kernel named 7.0\nfix: banger kernel list\n")
	if r := f.run(t, setup{}, "image", "show"); r.code != 2 {
		t.Errorf("%+v", r)
	}
}
