package cli

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"banger"
)

func TestImagePull(t *testing.T) {
	f := newFake()
	f.madeAt = time.Now().Add(time.Hour)
	f.run(t, setup{}, "image", "pull", "org/app:1").want(t, 0, "app-1: pulled 1G\n", "")
	f.madeAt = time.Now().Add(-time.Hour)
	f.run(t, setup{env: map[string]string{"DOCKER_CONFIG": "/x/docker"}}, "image", "pull", "org/app:1", "app").want(t, 0, "app-1: is up to date\n", "")
	f.run(t, setup{env: map[string]string{"REGISTRY_AUTH_FILE": "/x/auth.json"}}, "image", "pull", "org/app:1").want(t, 0, "app-1: is up to date\n", "")
	want := []banger.PullImage{{Ref: "org/app:1"}, {Ref: "org/app:1", Name: "app", AuthFile: "/x/docker/config.json"}, {Ref: "org/app:1", AuthFile: "/x/auth.json"}}
	if !reflect.DeepEqual(f.pulled, want) {
		t.Errorf("pulled %+v", f.pulled)
	}
	if r := f.run(t, setup{}, "image", "pull", "org/app:1", "App"); r.code != 2 || len(f.pulled) != 3 {
		t.Errorf("%+v", r)
	}
	if r := f.run(t, setup{}, "-v", "image", "pull", "org/app:1"); strings.Count(r.errOut, "download ... ") != 1 {
		t.Errorf("%+v", r)
	}
}

func TestProgressOfBytes(t *testing.T) {
	p := &progress{begun: time.Now()}
	p.event(banger.Step{Step: "download"})
	p.event(banger.Step{Step: "download", Moved: banger.MiB, Total: 2 * banger.MiB})
	if text := p.text(); !strings.HasPrefix(text, "download ... 1.0M of 2.0M, 0.") {
		t.Errorf("%q", text)
	}
	p.event(banger.Step{Step: "record"})
	if text := p.text(); !strings.HasPrefix(text, "record ... 0.") {
		t.Errorf("%q", text)
	}
}

func TestImagePrune(t *testing.T) {
	f := newFake()
	const list = "SIZE  KIND      NAME\n1G    image     box\n1M    download  0123456789ab\n"
	f.run(t, setup{}, "image", "prune", "--dry-run").want(t, 0, list+"1.0G would be removed\n", "")
	f.run(t, setup{}, "image", "prune").want(t, 0, list+"1.0G removed\n", "")
	f.run(t, setup{}, "image", "prune").want(t, 0, "0B removed\n", "")
	f.run(t, setup{}, "image", "prune", "--json").want(t, 0, "{\n  \"items\": [],\n  \"freed_bytes\": 0\n}\n", "")
}
