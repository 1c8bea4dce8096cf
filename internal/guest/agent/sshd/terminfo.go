package sshd

import (
	"fmt"
	"os"
	"strings"
)

// terminfoDirs are where ncurses looks for terminals, besides a user's own directory.
var terminfoDirs = []string{"/etc/terminfo", "/lib/terminfo", "/usr/lib/terminfo", "/usr/share/terminfo"}

// likeTerminals lists what stands in for terminals that an image does not know, by the
// beginning of their names. The terminals of today understand what xterm does.
var likeTerminals = []struct {
	begins string
	like   []string
}{
	{"tmux", []string{"tmux-256color", "screen-256color", "screen"}},
	{"screen", []string{"screen-256color", "screen"}},
	{"linux", []string{"linux"}},
	{"rxvt", []string{"rxvt-256color", "rxvt"}},
	{"", []string{"xterm-256color", "xterm-color", "xterm", "vt220", "vt100"}},
}

// knownTerminal returns term, or a terminal like it if the directories do not have it.
// Without a list of terminals there is nothing better than the real name.
func knownTerminal(term string, dirs []string) string {
	if term == "" || hasTerminal(term, dirs) {
		return term
	}
	for _, l := range likeTerminals {
		if !strings.HasPrefix(term, l.begins) {
			continue
		}
		for _, like := range l.like {
			if hasTerminal(like, dirs) {
				return like
			}
		}
	}
	return term
}

func hasTerminal(term string, dirs []string) bool {
	if strings.Contains(term, "/") || term[0] == '.' {
		return false
	}
	for _, dir := range dirs {
		for _, sub := range []string{term[:1], fmt.Sprintf("%02x", term[0])} {
			if _, err := os.Stat(dir + "/" + sub + "/" + term); err == nil {
				return true
			}
		}
	}
	return false
}
