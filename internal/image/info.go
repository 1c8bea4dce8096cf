package image

import (
	"encoding/json"
	"os"
	"slices"

	"banger"
	"banger/internal/config"
	"banger/internal/durable"
)

// info is what is known about an image besides its content. It is in a file beside it.
type info struct {
	Config  *banger.ImageConfig `json:"config,omitempty"`
	Sources []source            `json:"sources,omitempty"`
}

// source is a name in a registry that stood for the image.
type source struct {
	Ref      string        `json:"ref"`
	Manifest banger.Digest `json:"manifest"`
}

// readInfo returns what is known; of an image without the file that is nothing.
func readInfo(dir config.ImageDir) info {
	var i info
	if data, err := os.ReadFile(dir.Info()); err == nil && json.Unmarshal(data, &i) != nil {
		return info{}
	}
	return i
}

// merged returns i with what other knows as well. A reference stands for one manifest.
func (i info) merged(other info) info {
	if i.Config == nil {
		i.Config = other.Config
	}
	for _, s := range other.Sources {
		i.Sources = append(slices.DeleteFunc(slices.Clone(i.Sources), func(old source) bool { return old.Ref == s.Ref }), s)
	}
	return i
}

func (i info) write(dir config.ImageDir) error {
	if i.Config == nil && len(i.Sources) == 0 {
		return nil
	}
	data, err := json.Marshal(i)
	if err != nil {
		return err
	}
	return durable.WriteFile(dir.Info(), data, 0o600)
}
