package vmmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"banger/internal/guest/wire"
)

// ReadConfig returns the VM's configuration from an initrd: the last file of
// that name in its archives, as the kernel would unpack them.
func ReadConfig(initrd string) (wire.Config, error) {
	var config wire.Config
	data, err := os.ReadFile(initrd)
	if err != nil {
		return config, err
	}
	var found []byte
	for {
		data = bytes.TrimLeft(data, "\x00") // between archives
		if len(data) == 0 {
			break
		}
		var name string
		var content []byte
		if name, content, data, err = member(data); err != nil {
			return config, fmt.Errorf("read %s: %w", initrd, err)
		}
		if name == wire.ConfigPath {
			found = content
		}
	}
	if found == nil {
		return config, fmt.Errorf("%s has no %s", initrd, wire.ConfigPath)
	}
	return config, json.Unmarshal(found, &config)
}

const newcHeader = 110

// member cuts the first member off a newc archive.
func member(data []byte) (name string, content, rest []byte, err error) {
	broken := errors.New("not a newc archive")
	if len(data) < newcHeader || string(data[:6]) != "070701" {
		return "", nil, nil, broken
	}
	field := func(n int) int {
		value, failed := strconv.ParseUint(string(data[6+8*n:14+8*n]), 16, 31)
		if failed != nil {
			err = broken
		}
		return int(value)
	}
	size, nameSize := field(6), field(11)
	start := align(newcHeader + nameSize)
	end := align(start + size)
	if err != nil || nameSize < 1 || end > len(data) {
		return "", nil, nil, broken
	}
	return string(data[newcHeader : newcHeader+nameSize-1]), data[start : start+size], data[end:], nil
}

func align(n int) int { return (n + 3) &^ 3 }
