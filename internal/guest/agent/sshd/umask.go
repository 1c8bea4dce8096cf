package sshd

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// umaskFiles are those of PAM's that sshd's sessions read on Debian, Fedora and Arch, of
// which each may be absent.
var umaskFiles = []string{"sshd", "common-session", "postlogin", "system-login"}

// umaskOf returns the umask of a login, as pam_umask(8) sets it, and whether the image
// sets one: without that module, sshd does not ask login.defs.
func umaskOf(etc string) (mask int, given bool) {
	text, asked := "", false
	for _, name := range umaskFiles {
		eachLine(filepath.Join(etc, "pam.d", name), func(line string) {
			words := strings.Fields(line)
			at := slices.Index(words, "pam_umask.so")
			if at < 2 || strings.TrimPrefix(words[0], "-") != "session" {
				return
			}
			asked = true
			for _, word := range words[at:] {
				if value, ok := strings.CutPrefix(word, "umask="); ok {
					text = value
				}
			}
		})
	}
	if asked && text == "" {
		text = readLoginDefs(etc + "/login.defs")["UMASK"]
	}
	n, err := strconv.ParseUint(text, 8, 9)
	return int(n), err == nil
}
