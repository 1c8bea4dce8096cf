package agent

import (
	"encoding/json"
	"os"
)

// writeJSON puts a value into a private file, in full or not at all.
func writeJSON(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	aside := path + ".new"
	if err := os.WriteFile(aside, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, path)
}
