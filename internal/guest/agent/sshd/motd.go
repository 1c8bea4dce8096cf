package sshd

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// motdFiles are what pam_motd prints on Debian.
var motdFiles = []string{"/run/motd.dynamic", "/etc/motd", "/run/motd", "/usr/lib/motd"}

// maxMOTD bounds a message of the day.
const maxMOTD = 64 << 10

// messageOfTheDay returns what a user reads after a login on a terminal: what update-motd
// has made, and the first of the other files; and the files of /etc/motd.d.
func messageOfTheDay(user account, files []string) []byte {
	if _, err := os.Lstat(filepath.Join(user.home, ".hushlogin")); err == nil || len(files) < 2 {
		return nil
	}
	text := readBounded(files[0])
	for _, file := range files[1:] {
		if found := readBounded(file); found != nil {
			text = append(text, found...)
			break
		}
	}
	parts, _ := filepath.Glob(filepath.Dir(files[1]) + "/motd.d/*")
	slices.Sort(parts)
	for _, file := range parts {
		text = append(text, readBounded(file)...)
	}
	return bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
}

func readBounded(file string) []byte {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxMOTD))
	return text
}
