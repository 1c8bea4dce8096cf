package subid

import (
	"os"
	"path/filepath"
	"testing"

	"banger"
)

func TestCheck(t *testing.T) {
	const others = "other:100000:65536\n# a comment\nsmall:165536:10\n1001:300000:65536\nbad:x:y\n"
	for name, test := range map[string]struct {
		user, uids, gids string
		fix              string
	}{
		"by name":       {user: "me", uids: others + "me:1:65536\n", gids: "me:1:65536"},
		"by number":     {user: "numbered", uids: others, gids: others},
		"no files":      {user: "me", fix: "100000-165535 --add-subgids 100000-165535 me"},
		"too few":       {user: "small", uids: others, gids: others, fix: "365536-431071 --add-subgids 365536-431071 small"},
		"only user ids": {user: "me", uids: "me:100000:65536", gids: "other:200000:65536", fix: "265536-331071 --add-subgids 265536-331071 me"},
	} {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"subuid": test.uids, "subgid": test.gids} {
			if err := os.WriteFile(filepath.Join(root, "etc", file), []byte(text), 0o600); err != nil && text != "" {
				t.Fatal(err)
			}
		}
		uid := map[bool]int{true: 1001, false: 1000}[test.user == "numbered"]
		err := Check(root, test.user, uid)
		if test.fix == "" && err != nil || test.fix != "" && (banger.KindOf(err) != banger.Unready || banger.FixOf(err) != "sudo usermod --add-subuids "+test.fix) {
			t.Errorf("%s: %v, fix %q", name, err, banger.FixOf(err))
		}
	}
}
