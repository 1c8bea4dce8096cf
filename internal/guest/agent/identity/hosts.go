package identity

import (
	"bytes"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/inroot"
	"banger/internal/guest/agent/log"
)

const hostNameFile = "/etc/hostname"

// writeHosts puts the guest's name into /etc/hosts. A file that is too large to be
// read is a person's own list, and stays as it is.
func writeHosts(root, name string) error {
	previous, err := inroot.Read(root, hostNameFile)
	if err != nil {
		return err
	}
	old, err := inroot.Read(root, "/etc/hosts")
	if errors.Is(err, unix.EFBIG) {
		log.Errorf("leave /etc/hosts alone: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	return inroot.Write(root, "/etc/hosts", hostsFor(old, string(bytes.TrimSpace(previous)), name), 0o644)
}

// ownAddress is what the guest's name stands for in /etc/hosts.
const ownAddress = "127.0.1.1"

// hostsFor returns the content of /etc/hosts with the guest's name at ownAddress, and
// localhost if that was missing. Where the previous name was, the new one takes its
// place, and the rest of that line stays.
func hostsFor(old []byte, previous, name string) []byte {
	var lines []string
	local, own := false, false
	for line := range strings.Lines(string(old)) {
		line = strings.TrimRight(line, "\n")
		switch fields := strings.Fields(line); {
		case len(fields) == 0:
		case fields[0] == "127.0.0.1":
			local = true
		case fields[0] == ownAddress && !own:
			line, own = renamed(line, previous, name)
		}
		lines = append(lines, line)
	}
	if !local {
		lines = append([]string{"127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"}, lines...)
	}
	if !own {
		lines = append(lines, ownAddress+"\t"+name)
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// renamed returns a line with the word previous replaced by name, and reports
// whether the line now has the name.
func renamed(line, previous, name string) (string, bool) {
	names, comment, hasComment := strings.Cut(line, "#")
	if hasWord(names, name) {
		return line, true
	}
	at := findWord(names, previous)
	if at < 0 {
		return line, false
	}
	names = names[:at] + name + names[at+len(previous):]
	if hasComment {
		names += "#" + comment
	}
	return names, true
}

func hasWord(line, word string) bool { return findWord(line, word) >= 0 }

// findWord returns where a line has a word between spaces, or -1.
func findWord(line, word string) int {
	at := 0
	for _, found := range strings.Fields(line) {
		at += strings.Index(line[at:], found)
		if found == word {
			return at
		}
		at += len(found)
	}
	return -1
}
