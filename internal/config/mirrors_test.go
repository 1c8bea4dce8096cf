package config

import (
	"reflect"
	"testing"
)

func TestMirrors(t *testing.T) {
	var got map[string][]string
	list := []any{"docker.io=https://a.example", "docker.io=http://127.0.0.1:5000", "ghcr.io=https://b.example:8443"}
	want := map[string][]string{"docker.io": {"https://a.example", "http://127.0.0.1:5000"}, "ghcr.io": {"https://b.example:8443"}}
	if err := (value{any: list}).mirrors(&got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []any{"docker.io=https://a.example", int64(1), []any{"https://a.example"}, []any{"docker.io=a.example"}, []any{"docker.io=ftp://a.example"},
		[]any{"docker.io=https://a.example/path"}, []any{"docker.io=https://ann:secret@a.example"}, []any{"=https://a.example"}, []any{int64(1)}} {
		if err := (value{any: bad}).mirrors(&got); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}
