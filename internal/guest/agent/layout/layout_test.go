package layout

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// FuzzReadConfig: what is kept for the server and the last stage is what was read.
func FuzzReadConfig(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"otter","machine_id":"0123456789abcdef0123456789abcdef","nonce":"n","token":"t",` +
		`"authorized_keys":["ssh-ed25519 AAAA"],"host_key":"PEM","direct":["/var/lib/docker"],"work_mount":"/root","unix_nano":1}`))
	f.Add([]byte(`{"unknown":null,"direct":[]}`))
	f.Add([]byte("{\"name\":\"\xff\"}"))
	f.Add([]byte(`{"version":1e3}`))
	f.Add([]byte("null"))
	f.Add([]byte(""))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "config.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := ReadConfig(path)
		if err != nil {
			return
		}
		if err := WriteJSON(path, c); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadConfig(path); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("kept %+v, %v; read %+v", again, err, c)
		}
	})
}
