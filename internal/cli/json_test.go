package cli

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"banger"
	"banger/internal/doctor"
)

func TestEveryFieldIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(text), "\n## ")
	for title, value := range map[string]any{
		"Error": errorJSON{}, "VM": banger.VM{}, "Stats": banger.VMStats{}, "Guest stats": banger.GuestStats{}, "File system": banger.FileSystem{}, "Use": banger.Use{}, "Daemon": banger.Daemon{}, "Check": doctor.Check{},
		"Image and kernel": banger.Image{}, "Image and kernel\n": banger.Kernel{},
	} {
		section := ""
		for _, s := range sections {
			if strings.HasPrefix(s, strings.TrimSpace(title)+"\n") {
				section = s
			}
		}
		typ := reflect.TypeOf(value)
		for i := range typ.NumField() {
			name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(section, "\n| `"+name+"` | ") {
				t.Errorf("%s: %q is missing in docs/json.md", typ, name)
			}
			row := section[max(0, strings.Index(section, "`"+name+"` | ")):]
			row, _, _ = strings.Cut(row, "\n")
			if (options != "") != strings.Contains(row, "optional") {
				t.Errorf("%s: %q: optional or not? %s", typ, name, row)
			}
		}
		if rows := strings.Count(section, "\n| `"); rows != typ.NumField() {
			t.Errorf("%s: %d fields are documented, there are %d", typ, rows, typ.NumField())
		}
	}
}
